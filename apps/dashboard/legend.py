"""The classes of a mask with their colours, one below the other."""

import html
from collections.abc import Mapping

import streamlit as st

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
        behind = f"<td><b>{html.escape(values[value])}</b></td>" if values else ""
        lines.append(f'<tr><td style="padding-right:1.5rem">{chip} {html.escape(name)}</td>{behind}</tr>')
    st.html(f"<table>{''.join(lines)}</table>")
