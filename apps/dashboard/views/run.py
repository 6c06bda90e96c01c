"""Run."""

import streamlit as st

from apps.dashboard import page

st.title("Run")
page.empty("Choose a run on the overview.")
