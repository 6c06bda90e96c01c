"""Where a model comes from and what came from it, as a picture."""

from collections.abc import Sequence

from r2d2.tracking.zoo import ModelVersion

FILLS = {"light": ("#ffffff", "#e3f0fa", "#1c2733", "#8a94a0"), "dark": ("#1a222c", "#16405c", "#e4eaf0", "#8a94a0")}
"""Of a model, of the one that is looked at, of text, of lines."""


def picture(
    steps: Sequence[tuple[str, str]],
    versions: Sequence[ModelVersion],
    reference: str,
    origin: Sequence[str] = (),
    theme: str = "light",
) -> str:
    """A family of models in Graphviz' language.

    Args:
        steps: From `queries.family`.
        versions: All that the registry has.
        reference: The model that is looked at, `name/version`.
        origin: What else it was made of, e.g. its run and its data.
        theme: Of the page, light or dark.
    """
    plain, chosen, text, line = FILLS[theme]
    known = {one.reference: one for one in versions}
    names = dict.fromkeys([reference, *(name for step in steps for name in step)])
    words = [
        'rankdir="LR" bgcolor="transparent" nodesep="0.25" ranksep="0.5"',
        f'node [shape="box" style="rounded,filled" fontname="sans-serif" fontsize="12" fontcolor="{text}" '
        f'color="{line}" fillcolor="{plain}" margin="0.18,0.1"]',
        f'edge [color="{line}" arrowsize="0.7"]',
    ]
    for name in names:
        told = [name]
        if name in known:
            told += [f"@{alias}" for alias in known[name].aliases]
            told += [] if known[name].dice is None else [f"Dice {known[name].dice:.3f}"]
        else:
            told.append("not in this registry")
        look = f' fillcolor="{chosen}" penwidth="2"' if name == reference else ""
        look += "" if name in known else ' style="rounded,dashed"'
        words.append(f"{_quoted(name)} [label={_quoted(chr(10).join(told))}{look}]")
    for number, what in enumerate(origin):
        words.append(f'"origin {number}" [label={_quoted(what)} shape="note" style="filled"]')
        words.append(f'"origin {number}" -> {_quoted(reference)} [style="dotted"]')
    words += [f"{_quoted(parent)} -> {_quoted(child)}" for parent, child in steps]
    return "digraph {\n" + "\n".join(words) + "\n}"


def _quoted(text: str) -> str:
    """Text as Graphviz takes it for text: no HTML, no port, nothing that ends the quotes."""
    told = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
    return '"' + told.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
