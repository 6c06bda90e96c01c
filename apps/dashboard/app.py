"""The dashboard: its pages, and what stands beside each of them. `serve.py` starts it."""

from pathlib import Path

import streamlit as st

from apps.dashboard import door, page
from r2d2 import __version__
from r2d2.errors import InputError
from r2d2.network import without_passwords
from r2d2.tracking import store

# A picture of our own: for a symbol the browser would ask its maker's server.
st.set_page_config(page_title="R2D2", page_icon=Path(__file__).parent / "icon.svg", layout="wide")
page.admit()

PAGES = {
    "Watch": [("overview", "Overview", "monitoring"), ("run", "Run", "show_chart")],
    "Judge": [("compare", "Compare", "compare_arrows"), ("sweep", "Sweep", "tune"), ("zoo", "Zoo", "deployed_code")],
    "Do": [("predict", "Predict", "neurology"), ("train", "Train", "play_circle"), ("data", "Data", "database")],
}
views = Path(__file__).parent / "views"
made = {
    name: st.Page(
        views / f"{name}.py", title=title, icon=f":material/{icon}:", url_path=name, default=name == "overview"
    )
    for pages in PAGES.values()
    for name, title, icon in pages
}
shown = st.navigation({section: [made[name] for name, *_ in pages] for section, pages in PAGES.items()})
with st.sidebar:
    st.caption(f":material/person: {page.plain(page.who())}" + ("" if page.may_act() else " · read-only"))
    if page.logged_in():
        st.button("Log out", icon=":material/logout:", on_click=st.logout)
    try:
        where = without_passwords(store.resolve())
    except InputError as error:
        where = str(error)
    st.caption(f"R2D2 {__version__} · {page.plain(where)}")
if shown is not made["predict"]:
    door.shut()
shown.run()
