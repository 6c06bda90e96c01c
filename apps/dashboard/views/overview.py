"""Overview: the latest runs."""

import streamlit as st

from apps.dashboard import page
from r2d2.tracking import queries

st.title("Overview")


@st.fragment(run_every=page.LIVE_S)
def _runs() -> None:
    with page.sentences():
        found = queries.shared("runs", queries.list_runs, page.LIVE_S)
        page.fresh(found)
        if not found.value:
            page.empty("No runs yet. The first one:", "r2d2 demo", "r2d2 train FILE")
            return
        st.dataframe(found.value, hide_index=True)


_runs()
