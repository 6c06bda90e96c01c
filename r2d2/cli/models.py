"""From an experiment to a model, its scores and its masks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from r2d2.cli.common import Json, Overrides, answer, app
from r2d2.console import command
from r2d2.errors import InputError

MOST_ROWS = 40
"""How many cases a table on the terminal shows."""


@app.command()
def train(
    file: Annotated[Path | None, typer.Argument(help="An experiment file.", show_default=False)] = None,
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run that did not finish.")] = None,
    as_json: Json = False,
) -> None:
    """Train an experiment, test it and register the model."""
    from r2d2 import config
    from r2d2.engine.train import train as run

    result = run(config.load(file, overrides or []) if file else None, resume)
    if as_json:
        answer(result)
        return
    print(_table(result.rows, result.metrics))
    registered = "registered " if result.model_uri else "to be registered once the tracking server is back: "
    aliases = " (alias candidate)" if result.model_uri else ""
    print(f"\nRun {result.run_id}: {registered}{result.model}{aliases}, weights of epoch {result.best_epoch}")
    if result.reason != "all epochs done":
        print(f"It ended before its last epoch: {result.reason}")
    print(result.verdict)
    print(f"Next: {command()} predict {result.model} SCAN.nii.gz -o MASK.nii.gz")


@app.command()
def evaluate(
    model: Annotated[str | None, typer.Argument(help="name@alias, name/version, a run or a folder.")] = None,
    data: Annotated[Path | None, typer.Argument(help="Annotated scans; absent: the model's test patients.")] = None,
    reference: Annotated[Path | None, typer.Option(help="A folder of reference masks.")] = None,
    prediction: Annotated[Path | None, typer.Option(help="A folder of predicted masks of the same names.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The report's folder (one of R2D2_HOME/evaluations).")
    ] = None,
    tolerance: Annotated[float | None, typer.Option(min=0.0, help="Of the surface Dice, in mm (2).")] = None,
    patient_pattern: Annotated[
        str, typer.Option(help="Of two folders: the regular expression that takes the patient from a file's name.")
    ] = "^.*$",
    as_json: Json = False,
) -> None:
    """Score a model on annotated scans, or a folder of masks against another, patient by patient."""
    from r2d2.engine.evaluate import compare_folders
    from r2d2.engine.evaluate import evaluate as run

    if model is not None and reference is None and prediction is None:
        result = run(model, data, output, tolerance)
    elif model is None and reference is not None and prediction is not None:
        result = compare_folders(reference, prediction, output, tolerance, patient_pattern)
    else:
        raise InputError("evaluate: give MODEL [DATA], or --reference DIR and --prediction DIR")
    if as_json:
        answer(result.document | {"report": result.report})
        return
    print(f"{result.about}\n")
    print(_table(result.rows, result.means))
    print(f"\n{_estimates(result.estimates, result.labels)}")
    print(f"\nWrote report.html, scores.json and scores.csv in {result.report}; what each number is, they say")


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="name@alias, name/version, a run or a folder.")],
    scan: Annotated[list[Path], typer.Argument(help="A file, a folder of DICOM, or a file for each channel.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The mask's file.")],
    as_json: Json = False,
) -> None:
    """Segment a scan; the mask lies on the scan's own grid."""
    from r2d2.engine.predict import predict as run

    result = run(model, scan, output)
    if as_json:
        answer(result)
        return
    for name, volume in result.volumes_ml.items():
        print(f"{name:<20} {volume:10.1f} ml")
    print(f"Wrote {result.mask} ({'x'.join(map(str, result.shape))}, the grid of {scan[0]})")


def _table(rows: list[dict[str, Any]], means: dict[str, float]) -> str:
    """The Dice of every case by class, and the patients' means, as a table.

    Where a column is not the mean of all patients, a last line says of how many it is.
    """
    if not rows:
        return "No test patients: data.split leaves none."
    columns = ["dice", *(key for key in means if key.startswith("dice/")), "mean_iou", "pixel_accuracy"]
    titles = ["Dice", *(key.removeprefix("dice/") for key in columns[1:-2]), "mean IoU", "pixel acc."]
    names = [
        str(row["case"]) if row["case"] == row["patient"] else f"{row['case']} (of {row['patient']})" for row in rows
    ]
    width = max(18, *(len(name) for name in names))

    def line(name: str, cells: list[str]) -> str:
        padded = (f"{cell:>{max(10, len(title) + 2)}}" for cell, title in zip(cells, titles, strict=True))
        return f"{name:<{width}}" + "".join(padded)

    def numbers(values: dict[str, Any]) -> list[str]:
        return ["absent" if values.get(column) is None else f"{values[column]:.3f}" for column in columns]

    having = [{row["patient"] for row in rows if row.get(column) is not None} for column in columns]
    patients = len({row["patient"] for row in rows})
    lines = [line("", titles)]
    # Of many, the worst: who wants all has them in the files.
    order = sorted(range(len(rows)), key=lambda i: 2.0 if rows[i]["dice"] is None else rows[i]["dice"])
    shown = sorted(order[:MOST_ROWS]) if len(rows) > MOST_ROWS else range(len(rows))
    lines += [line(names[i], numbers(rows[i])) for i in shown]
    if len(rows) > MOST_ROWS:
        lines.append(f"(the {MOST_ROWS} worst of {len(rows)})")
    lines.append(line(f"mean of {patients} patient{'s' if patients > 1 else ''}", numbers(means)))
    if any(len(having_it) != patients for having_it in having):
        lines.append(line("  patients with it", [str(len(having_it)) for having_it in having]))
    return "\n".join(lines)


def _estimates(estimates: dict[str, Any], labels: dict[int, str]) -> str:
    """The scores of whole volumes with their intervals, as a table."""
    from r2d2.segeval.report import summary

    rows = [("Mean or median (95 % interval)", ["all", *(name for value, name in sorted(labels.items()) if value > 0)])]
    rows += summary(estimates, labels)
    first = max(len(title) for title, _ in rows)
    widths = [max(len(cells[column]) for _, cells in rows) for column in range(len(rows[0][1]))]
    return "\n".join(
        f"{title:<{first}}  " + "  ".join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=True)).rstrip()
        for title, cells in rows
    )
