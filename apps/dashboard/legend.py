"""The classes of a mask with their colours."""

from collections.abc import Mapping

import streamlit as st

from apps.dashboard import page
from r2d2.segeval.overlay import COLOURS


def legend(classes: Mapping[int, str], values: Mapping[int, str] | None = None) -> None:
    """A line for each class: its colour, its name, and what is to stand behind it.

    Args:
        classes: The foreground classes' names by value.
        values: Text by value.
    """
    lines = []
    for value, name in classes.items():
        chip = f'<span style="color:{COLOURS[(value - 1) % len(COLOURS)]}">&#9632;</span>'
        behind = f" &nbsp; **{page.plain(values[value])}**" if values else ""
        lines.append(f"{chip} {page.plain(name)}{behind}")
    st.markdown("  \n".join(lines), unsafe_allow_html=True)  # of ours alone: names are plain text
