"""Zoo: not on a page yet."""

import streamlit as st

from apps.dashboard import page

st.title("Zoo")
page.empty("This is not on a page yet; the command line does it.", "r2d2 zoo list")
