"""Sweep."""

import streamlit as st

from apps.dashboard import page

st.title("Sweep")
page.empty("Choose a run on the overview.")
