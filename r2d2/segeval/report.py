"""An evaluation as files: JSON for programs, CSV for spreadsheets, one HTML page for people."""

import base64
import csv
import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from r2d2.segeval.definitions import AGGREGATIONS, EMPTY, SCORES, SYMBOLS, definitions, split
from r2d2.segeval.overlay import COLOURS, plain_text
from r2d2.segeval.statistics import Estimate
from r2d2.segeval.summary import TOLERANCE_MM, Tally, foreground, plain

SHOWN = ("dice", "iou", "hd95_mm", "surface_dice")
"""The scores whose distributions are drawn."""


@dataclass(frozen=True)
class Files:
    """A report: its estimates and means, what `scores.json` says in Python's terms, each file's text by its name."""

    estimates: dict[str, Estimate]
    means: dict[str, float]
    document: dict[str, Any]
    texts: dict[str, str]


def files(
    tally: Tally,
    about: str,
    pictures: Mapping[str, Figure],
    tolerance_mm: float = TOLERANCE_MM,
    plane: str = "axial",
) -> Files:
    """Make `scores.json`, `scores.csv` and `report.html`.

    `scores.json` has `about`; `labels`; `definitions` of every number by its name, and of what holds for all;
    `estimates` of whole volumes; `means` of these, and the pooled and the slices' scores; `confusion_matrix` of all
    voxels; `lesions` by class and size; `rows`, a dictionary a scan. null stands where there is no number, "inf" for
    what was missed.

    Args:
        tally: The scores.
        about: One sentence on whose scans these are.
        pictures: Overlays of the worst cases by the case's name, in that order.
        tolerance_mm: Of the surface Dice.
        plane: Of the slices.
    """
    estimates, means = tally.estimates(), tally.means()
    document = plain(
        {
            "about": about,
            "labels": {str(value): name for value, name in tally.labels.items()},
            "definitions": definitions(dict.fromkeys([*estimates, *means]), tolerance_mm, plane),
            "estimates": {name: asdict(one) for name, one in estimates.items()},
            "means": means,
            "confusion_matrix": tally.pooled.tolist(),
            "lesions": {name: [asdict(size) for size in sizes] for name, sizes in tally.lesions().items()},
            "rows": tally.rows,
        }
    )
    texts = {
        "scores.json": json.dumps(document, indent=1, allow_nan=False),
        "scores.csv": as_csv(tally),
        "report.html": _page(tally, document, estimates, means, pictures, plane),
    }
    return Files(estimates, means, document, texts)


def as_csv(tally: Tally) -> str:
    """A line for each scan and class, and one for all classes together; empty where there is no number."""
    classes = ["", *(name for _, name in foreground(tally.labels))]
    columns = [name for name in SCORES if any(name == column.partition("/")[0] for row in tally.rows for column in row)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "patient", "class", *columns])
    for row in tally.rows:
        for of in classes:
            numbers = (row.get(f"{column}/{of}" if of else column) for column in columns)
            table.writerow([row["case"], row["patient"], of or "all", *("" if _none(n) else n for n in numbers)])
    return text.getvalue()


def cell(one: Estimate, form: str = ".3f", patients: int | None = None) -> str:
    """An estimate as people read it: the value and its interval, and n where it is not of all patients."""
    if not one.n:
        return "-"
    text = f"{one.value:{form}}"
    if not math.isnan(one.low):
        text += f" ({one.low:{form}} to {one.high:{form}})"
    if patients is not None and one.n < patients:
        text += f", n {one.n}"
    return text + (f", {one.missed} missed" if one.missed else "")


def summary(estimates: Mapping[str, Estimate], labels: Mapping[int, str]) -> list[tuple[str, list[str]]]:
    """The estimates as a table: a row a score with its title, then a cell for all classes and for each class."""
    classes = ["", *(name for _, name in foreground(labels))]
    patients = max((one.n for one in estimates.values()), default=0)
    rows = []
    for name, score in SCORES.items():
        found = [estimates.get(f"{name}/{of}" if of else name) for of in classes]
        if any(found):
            unit = f", {score.unit}" if score.unit else ""
            title = f"{score.title}{unit}{' (median)' if score.statistic == 'median' else ''}"
            form = {"": ".3f", "ml": ".3g", "mm": ".1f"}.get(score.unit, ".2f")
            rows.append((title, ["" if one is None else cell(one, form, patients) for one in found]))
    return rows


def _page(
    tally: Tally,
    told: dict[str, Any],
    estimates: Mapping[str, Estimate],
    means: Mapping[str, float],
    pictures: Mapping[str, Figure],
    plane: str,
) -> str:
    template = Environment(
        loader=PackageLoader("r2d2.segeval", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("report.html.j2")
    classes = [name for _, name in foreground(tally.labels)]
    worst = {name: next(row for row in tally.rows if row["case"] == name) for name in pictures}
    return template.render(
        about=told["about"],
        today=date.today().isoformat(),
        classes=classes,
        summary=summary(estimates, tally.labels),
        n=max((one.n for one in estimates.values()), default=0),
        without={name: n for name in classes if (n := _without(tally, name))},
        aggregations=_aggregations(means, classes),
        meanings={ending: text.format(plane=plane) for ending, text in AGGREGATIONS.items()},
        distributions=_svg(_distributions(tally, classes)),
        pictures=[
            {
                "case": name,
                "png": _png(figure),
                "scores": {of: _text(worst[name].get(f"dice/{of}")) for of in classes},
            }
            for name, figure in pictures.items()
        ],
        lesions=tally.lesions(),
        cases=[
            [row["case"], row["patient"], *(_text(row.get(name)) for name in ("dice", "iou", "hd95_mm"))]
            for row in sorted(tally.rows, key=lambda row: _ascending(row["dice"]))
        ],
        empty=EMPTY,
        symbols=SYMBOLS,
        definitions={name: text for name, text in told["definitions"].items() if name in (*estimates, *means)},
        inf=math.inf,
    )


def _aggregations(means: Mapping[str, float], classes: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The same scores put together in the three ways, so that one number is not taken for another."""
    names = [f"dice/{of}" for of in classes] + ["dice", "iou", "mean_dice", "mean_iou", "pixel_accuracy"]
    rows = []
    for name in names:
        score, _, of = split(name)
        ways = [means.get(f"{score}{ending}/{of}" if of else f"{score}{ending}") for ending in AGGREGATIONS]
        over = of or ("classes without background" if SCORES[score].per_class else "classes with background")
        rows.append((f"{SCORES[score].title}, {over}", [_text(way) for way in ways]))
    return rows


def _distributions(tally: Tally, classes: Sequence[str]) -> Figure:
    """Boxes over patients, and a point for each."""
    shown = [name for name in SHOWN if any(f"{name}/{of}" in row for row in tally.rows for of in classes)]
    figure = Figure(figsize=(3.1 * len(shown), 0.9 + 0.55 * max(2, len(classes))), layout="constrained")
    rng = np.random.default_rng(0)
    for number, name in enumerate(shown):
        axes, score = figure.add_subplot(1, len(shown), number + 1), SCORES[name]
        for row, of in enumerate(reversed(classes)):
            values = np.array([*tally.patients(f"{name}/{of}").values()])
            found = values[np.isfinite(values)]
            if found.size:
                axes.boxplot(found, positions=[row], orientation="horizontal", widths=0.5, showfliers=False)
            points = row + rng.uniform(-0.15, 0.15, found.size)
            colour = COLOURS[classes.index(of) % len(COLOURS)]
            axes.scatter(found, points, s=9, alpha=0.6, color=colour, linewidths=0, zorder=3)
            if missed := np.count_nonzero(np.isinf(values)):
                axes.annotate(
                    f"{missed} missed", (0.98, row), xycoords=("axes fraction", "data"), ha="right", fontsize=8
                )
        axes.set_yticks(
            range(len(classes)),
            [plain_text(textwrap.shorten(of, 24)) if number == 0 else "" for of in reversed(classes)],
        )
        axes.set_ylim(-0.6, len(classes) - 0.4)
        axes.set_xlabel(f"{score.title}{f' ({score.unit})' if score.unit else ''}")
        if not score.unit:
            axes.set_xlim(-0.02, 1.02)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _without(tally: Tally, of: str) -> int:
    """How many patients have a class in neither mask."""
    return sum(math.isnan(value) for value in tally.patients(f"dice/{of}").values())


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _png(figure: Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return base64.b64encode(data.getvalue()).decode()


def _text(value: float | None) -> str:
    if _none(value):
        return "-"
    return "missed" if math.isinf(value) else f"{value:.3f}"  # type: ignore[arg-type]


def _none(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _ascending(value: float) -> float:
    return 2.0 if math.isnan(value) else value
