"""Compare."""

import streamlit as st

from apps.dashboard import page

st.title("Compare")
page.empty("Choose a run on the overview.")
