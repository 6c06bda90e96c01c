"""The dashboard's charts: units on every axis, one palette, shapes or dashes for those who do not see colours."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from r2d2.segeval.overlay import COLOURS

DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3), (12, 3))
GREY = "#8a94a0"
HEIGHT = 220

alt.data_transformers.disable_max_rows()


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    marks: Sequence[tuple[float, str]] = (),
    within: tuple[float, float] | None = None,
    x_within: tuple[float, float] | None = None,
    logarithmic: bool = False,
    height: int = HEIGHT,
) -> dict[str, Any]:
    """A line for each series, as Vega-Lite has it: Altair takes 30 ms to say so, and this is drawn again and again.

    Args:
        series: Points (x, y) by name, in the order of the palette.
        x: What the x axis is, with its unit.
        y: Likewise.
        marks: Where something happened, and what.
        within: The y axis, if it is not to follow the data.
        x_within: The x axis, likewise: charts above each other share it.
        logarithmic: Whether y is drawn by its logarithm; what is not above 0 is then left out.
        height: In pixels.

    Returns:
        The specification; its `datasets` are columns by name.
    """
    rows = [(name, a, b) for name, points in series.items() for a, b in points if not logarithmic or b > 0]
    names, few = list(series), len(rows) <= 40 * max(1, len(series))
    across: dict[str, Any] = {"nice": False, "zero": False} | ({"domain": list(x_within)} if x_within else {})
    up: dict[str, Any] = {"type": "log"} if logarithmic else {"zero": False, "nice": True}
    up |= {"domain": list(within)} if within else {}
    # Of epochs there are whole ones alone.
    whole = {"tickMinStep": 1, "format": "d"} if x.startswith("epoch") else {}
    colours = {"domain": names, "range": _repeat(COLOURS, names)}
    dashes = {"domain": names, "range": [list(dash) for dash in _repeat(DASHES, names)]}
    legend = {"orient": "top", "title": None, "columns": 4, "labelLimit": 220}
    legend |= {"symbolType": "stroke", "symbolStrokeWidth": 3}
    lines = {
        "data": {"name": "points"},
        "mark": {"type": "line", "point": {"size": 28} if few else False, "strokeWidth": 2, "clip": True},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": x, "scale": across, "axis": {"grid": False} | whole},
            "y": {
                "field": "y",
                "type": "quantitative",
                "title": y,
                "scale": up,
                "axis": {"tickCount": 3 if logarithmic else 5},
            },
            "color": {
                "field": "series",
                "type": "nominal",
                "scale": colours,
                "legend": legend if len(names) > 1 else None,
            },
            "strokeDash": {"field": "series", "type": "nominal", "scale": dashes, "legend": None},
            "tooltip": [
                {"field": "series", "type": "nominal", "title": " "},
                {"field": "x", "type": "quantitative", "title": x},
                {"field": "y", "type": "quantitative", "title": y, "format": ".4~g"},
            ],
        },
    }
    inside = [(at, what) for at, what in marks if x_within is None or x_within[0] <= at <= x_within[1]]
    points = dict(zip(("series", "x", "y"), zip(*rows, strict=True), strict=True)) if rows else {}
    datasets = {"points": points}
    if inside:
        datasets["marks"] = dict(zip(("x", "what"), zip(*inside, strict=True), strict=True))
    return {"height": height, "layer": [lines, *(_marks() if inside else ())], "datasets": datasets}


def _marks() -> list[dict[str, Any]]:
    """A rule and a sign where something happened."""
    at = {"field": "x", "type": "quantitative"}
    tip = {"field": "what", "type": "nominal", "title": "what happened"}
    rule = {"type": "rule", "color": COLOURS[4], "strokeDash": [4, 3], "strokeWidth": 1.5}
    sign = {"type": "point", "shape": "triangle-down", "filled": True, "size": 90, "color": COLOURS[4], "opacity": 1.0}
    return [
        {"data": {"name": "marks"}, "mark": rule, "encoding": {"x": at, "tooltip": tip}},
        {"data": {"name": "marks"}, "mark": sign, "encoding": {"x": at, "y": {"value": 4}, "tooltip": tip}},
    ]


def shares(
    rows: Sequence[Mapping[str, Any]], x: str, parts: Mapping[str, str], y: str, height: int = HEIGHT
) -> alt.Chart:
    """Stacked bars: what a whole is made of, for each x.

    Args:
        rows: Each with `x` and the parts' keys.
        x: What the x axis is, with its unit.
        parts: What the parts are called, by key.
        y: What is stacked, with its unit.
        height: In pixels.
    """
    names = list(parts.values())
    long = [
        (row["x"], name, names.index(name), row[key])
        for row in rows
        for key, name in parts.items()
        if row.get(key) is not None
    ]
    table = pd.DataFrame(long, columns=["x", "part", "place", "y"])
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            alt.X("x:O", title=x, axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            alt.Y("sum(y):Q", title=y, axis=alt.Axis(tickCount=5)),
            alt.Color(
                "part:N",
                scale=alt.Scale(domain=names, range=_repeat(COLOURS, names)),
                legend=alt.Legend(orient="top", title=None, columns=2),
            ),
            order=alt.Order("place:Q"),
            tooltip=[
                alt.Tooltip("part:N", title=" "),
                alt.Tooltip("x:O", title=x),
                alt.Tooltip("y:Q", title=y, format=".3~g"),
            ],
        )
        .properties(height=height)
    )


def bars(values: Mapping[str, float], x: str) -> alt.Chart:
    """A bar for each name, the longest first; `x` is what they measure, with its unit."""
    table = pd.DataFrame(sorted(values.items(), key=lambda item: -item[1]), columns=["name", "value"])
    base = alt.Chart(table).encode(
        alt.X("value:Q", title=x, axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=True)),
        alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=260)),
    )
    text = base.mark_text(align="left", dx=5, color=GREY).encode(text=alt.Text("value:Q", format=".3~g"))
    return (base.mark_bar(color=COLOURS[0]) + text).properties(height=34 * len(values) + 40)


def paired(rows: Sequence[tuple[str, float, float]], first: str, second: str, y: str) -> alt.LayerChart:
    """Two models on the same patients: a line a patient from the one's score to the other's, blue if it rises.

    Args:
        rows: Patient, first score, second score.
        first: What the first is called.
        second: Likewise.
        y: What the scores are, with their unit.
    """
    long = [
        (patient, place, value, "second better" if b > a else "first better" if a > b else "equal")
        for patient, a, b in rows
        for place, value in (("1", a), ("2", b))
    ]
    table = pd.DataFrame(long, columns=["patient", "run", "score", "which"])
    names = ["second better", "first better", "equal"]
    label = f"datum.label == '1' ? {_quoted(first)} : {_quoted(second)}"
    base = alt.Chart(table).encode(
        alt.X("run:N", title=None, axis=alt.Axis(labelExpr=label, labelAngle=0, labelLimit=260)),
        alt.Y("score:Q", title=y, scale=alt.Scale(zero=False, nice=True)),
        detail="patient:N",
        color=alt.Color(
            "which:N",
            scale=alt.Scale(domain=names, range=[COLOURS[0], COLOURS[4], GREY]),
            legend=alt.Legend(orient="top", title=None),
        ),
        tooltip=["patient:N", alt.Tooltip("score:Q", title=y, format=".3f")],
    )
    return (base.mark_line(strokeWidth=1.5, opacity=0.8) + base.mark_point(filled=True, size=40)).properties(height=320)


def intervals(
    series: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]],
    x: str,
    y: str,
    height: int = HEIGHT,
) -> alt.LayerChart:
    """A line for each series, each point (x, value, low, high) with its interval, if it has one."""
    rows = [(name, *point) for name, points in series.items() for point in points]
    table = pd.DataFrame(rows, columns=["series", "x", "y", "low", "high"])
    names = list(series)
    base = alt.Chart(table).encode(
        alt.X("x:Q", title=x, scale=alt.Scale(nice=False), axis=alt.Axis(tickMinStep=1, format="d", grid=False)),
        color=alt.Color(
            "series:N", scale=alt.Scale(domain=names, range=_repeat(COLOURS, names)), legend=_legend(names)
        ),
    )
    line = base.mark_line(point={"size": 40}, strokeWidth=2).encode(
        alt.Y("y:Q", title=y, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        strokeDash=alt.StrokeDash(
            "series:N", scale=alt.Scale(domain=names, range=[list(dash) for dash in _repeat(DASHES, names)])
        ).legend(None),
        tooltip=[
            alt.Tooltip("series:N", title=" "),
            alt.Tooltip("x:Q", title=x),
            *(alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("y", "low", "high")),
        ],
    )
    bar = base.transform_filter("isValid(datum.low)").mark_rule().encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    return alt.layer(bar, line).properties(height=height)


def parallel(
    axes: Sequence[tuple[str, Sequence[tuple[float, str]]]],
    lines: Sequence[tuple[str, float, bool, Sequence[float | None]]],
    score: str,
) -> alt.LayerChart:
    """Parallel coordinates: a line a trial through its settings to its score, the better the stronger.

    Args:
        axes: For each axis its name and its ticks: a place from 0 to 1 and what stands there.
        lines: For each trial its name, its score, whether it went to the end, and its place on each axis, or None.
        score: What the score is.
    """
    points = [
        (name, dice, "finished" if whole else "ended early", number, place)
        for name, dice, whole, places in lines
        for number, place in enumerate(places)
        if place is not None
    ]
    table = pd.DataFrame(points, columns=["trial", "score", "how", "axis", "place"])
    ticks = pd.DataFrame(
        [(number, place, text) for number, (_, marks) in enumerate(axes) for place, text in marks],
        columns=["axis", "place", "text"],
    )
    across = alt.X(
        "axis:Q",
        title=None,
        scale=alt.Scale(domain=[-0.35, len(axes) - 0.75], nice=False),
        axis=alt.Axis(
            values=list(range(len(axes))),
            grid=False,
            domain=False,
            ticks=False,
            labelExpr=f"{[name for name, _ in axes]!r}[datum.value]".replace('"', "'"),
            labelLimit=200,
            labelPadding=10,
        ),
    )
    up = alt.Y("place:Q", scale=alt.Scale(domain=[-0.04, 1.04], nice=False), axis=None)
    rules = (
        alt.Chart(pd.DataFrame({"axis": list(range(len(axes)))})).mark_rule(color=GREY, strokeWidth=1).encode(x=across)
    )
    drawn = (
        alt.Chart(table)
        .mark_line(strokeWidth=2, opacity=0.85, point={"size": 30})
        .encode(
            across,
            up,
            detail="trial:N",
            order="axis:Q",
            color=alt.Color(
                "score:Q",
                scale=alt.Scale(scheme="viridis", reverse=False),
                legend=alt.Legend(orient="top", title=score, gradientLength=220, format=".3f"),
            ),
            strokeDash=alt.StrokeDash(
                "how:N",
                scale=alt.Scale(domain=["finished", "ended early"], range=[[1, 0], [5, 3]]),
                legend=alt.Legend(orient="top", title=None),
            ),
            tooltip=["trial:N", alt.Tooltip("score:Q", title=score, format=".3f"), "how:N"],
        )
    )
    texts = (
        alt.Chart(ticks).mark_text(align="right", dx=-7, fontSize=11, color=GREY).encode(x=across, y=up, text="text:N")
    )
    return alt.layer(rules, drawn, texts).properties(height=340)


def spark(points: Sequence[tuple[float, float]], top: float | None = None) -> str:
    """A small curve without axes, over the last minutes, as a picture of SVG: a browser need not load Vega for it.

    Args:
        points: At least two, from left to right.
        top: The end of its scale, if that is known; else its highest point, or 1: what is next to nothing looks so.
    """
    (left, _), (right, _) = points[0], points[-1]
    wide, high = max(right - left, 1e-9), top or max(1.0, *(value for _, value in points))
    line = " ".join(f"{100 * (x - left) / wide:.1f},{36 - 34 * min(1.0, y / high):.1f}" for x, y in points)
    drawn = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 36" preserveAspectRatio="none">'
        f'<polygon points="0,36 {line} 100,36" fill="{COLOURS[0]}" fill-opacity="0.25"/>'
        f'<polyline points="{line}" fill="none" stroke="{COLOURS[0]}" stroke-width="1.5" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )
    source = base64.b64encode(drawn.encode()).decode()
    return f'<img alt="" src="data:image/svg+xml;base64,{source}" style="display: block; width: 100%; height: 36px">'


def _legend(names: Sequence[str]) -> alt.Legend | None:
    return (
        alt.Legend(orient="top", title=None, columns=4, labelLimit=220, symbolType="stroke", symbolStrokeWidth=3)
        if len(names) > 1
        else None
    )


def _repeat(of: Sequence[Any], names: Sequence[str]) -> list[Any]:
    return [of[number % len(of)] for number in range(len(names))]


def _quoted(text: str) -> str:
    """A text in Vega's expressions, as it is."""
    told = "".join(letter if letter.isprintable() else " " for letter in text)
    return "'" + told.replace("\\", "\\\\").replace("'", "\\'") + "'"
