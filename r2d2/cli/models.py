"""From an experiment to a model, its scores and its masks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2d2.cli.common import Json, Overrides, answer, app
from r2d2.console import command, say
from r2d2.errors import InputError, WorkFailed

if TYPE_CHECKING:
    from r2d2.engine.predict import Prediction
    from r2d2.engine.tune import SweepResult

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

    if file and "=" in file.name and not file.exists():
        raise InputError(f"{file}: a setting is changed after the experiment file: train FILE KEY=VALUE")
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
def tune(
    file: Annotated[Path | None, typer.Argument(help="A sweep file.", show_default=False)] = None,
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option(metavar="SWEEP", help="Go on with a sweep that did not finish.")] = None,
    layouts: Annotated[
        bool, typer.Option("--layouts", help="Only measure how many trials of how many workers each finish first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search an experiment's settings by many trials; test the best one and register it."""
    from r2d2 import config
    from r2d2.engine.layouts import layouts as measure
    from r2d2.engine.tune import tune as run

    if layouts:
        if file is None or resume is not None:
            raise InputError("--layouts: give a sweep file, and no --resume")
        found = measure(config.load_sweep(file, overrides or []))
        if as_json:
            answer(found)
            return
        print("at a time  workers  CPUs each  start s  epoch s  all trials to their last epoch")
        for one in found:
            about = f"{one.start_s:<8.1f} {one.epoch_s:<8.2f} {one.sweep_s / 60:.1f} min"
            print(f"{one.trials:<10} {one.workers:<8} {one.cpus_per_worker:<10} {about}")
        best, sweep = found[0], config.load_sweep(file, overrides or [])
        same = (
            ""
            if sweep.experiment.cluster.workers == best.workers
            else (f" training.virtual_workers={sweep.experiment.logical_workers}")
        )
        print(f"\nSoonest done: tune {file} concurrent={best.trials} cluster.workers={best.workers}{same}")
        return
    if file and "=" in file.name and not file.exists():
        raise InputError(f"{file}: a setting is changed after the sweep file: tune FILE KEY=VALUE")
    result = run(config.load_sweep(file, overrides or []) if file else None, resume)
    if as_json:
        answer(result)
        return
    _show_sweep(result)


def _show_sweep(result: "SweepResult") -> None:
    from r2d2.config import shown

    rows = sorted(result.trials, key=lambda row: -(row["val/dice"] or 0.0))
    keys = list(dict.fromkeys(key for row in rows for key in row["values"]))
    head = ["trial", *(key.removeprefix("training.") for key in keys), "epochs", "val dice", "outcome"]
    cells = [
        [
            str(row["number"]),
            *(shown(row["values"][key]) if key in row["values"] else "-" for key in keys),
            str(row["epochs"]),
            "-" if row["val/dice"] is None else f"{row['val/dice']:.3f}",
            row["outcome"],
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for line in [head, *cells[:MOST_ROWS]]:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    if len(cells) > MOST_ROWS:
        print(f"(the best {MOST_ROWS} of {len(cells)})")
    if result.importance:
        told = ", ".join(f"{key.removeprefix('training.')} {part:.0%}" for key, part in result.importance.items())
        print(f"\nWhat the scores depend on: {told}")
    for recipe in result.recipes:
        told = ", ".join(f"{key.removeprefix('training.')}={shown(value)}" for key, value in recipe["values"].items())
        lost = f", {recipe['points_lost']:+.1f} points lost" if recipe is not result.recipes[0] else ""
        print(f"Best: {told}: val Dice {recipe['val/dice']:.3f}{lost}")
    print(f"\nSweep {result.run_id}: trial {result.best} is the best; table and pictures in {result.report}")
    if result.model:
        dice = result.model.metrics.get("dice")
        tested = "" if dice is None else f", test Dice {dice:.3f}"
        print(f"Registered {result.model.model} (alias candidate){tested}, run {result.model.run_id}")


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
    scan: Annotated[
        list[Path],
        typer.Argument(help="A file, a folder of DICOM, a file for each channel; or a folder of scans."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="The mask's file, .dcm for a DICOM SEG of a DICOM series; of scans a folder."
        ),
    ],
    probabilities: Annotated[
        Path | None,
        typer.Option(help="A file (of scans: a folder) for the classes' probabilities, X, Y, Z, class, as .nii.gz."),
    ] = None,
    flips: Annotated[
        bool,
        typer.Option("--flips", help="Average over the slices' flips: a little better, in 4 times the time."),
    ] = False,
    planes: Annotated[
        bool,
        typer.Option(
            "--planes",
            help="Average over slices along all three axes: smoother from slice to slice where voxels are cubes and "
            "the network knows other planes. It hurts where slices are thick, or all that it was trained on was axial.",
        ),
    ] = False,
    largest: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Keep a class' largest connected piece alone; repeatable; all: of each."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a scan that is unlike all the model knows, instead of warning.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Segment a scan, or each scan of a folder; a mask lies on its scan's own grid."""
    from r2d2.engine import predict as engine

    options: dict[str, Any] = {
        "probabilities": probabilities,
        "flips": flips,
        "planes": planes,
        "largest": largest or [],
        "strict": strict,
    }
    scans = engine.scans_in(scan)
    if scans is None:
        one = engine.predict(model, scan, output, **options)
        if as_json:
            answer(one)
            return
        for name, volume in one.volumes_ml.items():
            print(f"{name:<20} {volume:10.1f} ml")
        print(f"Wrote {one.mask} ({'x'.join(map(str, one.shape))}, the grid of {scan[0]})")
        return
    many = engine.predict_folder(model, scans, output, **options)
    if as_json:
        answer(many)
    else:
        if many.predictions:
            print(_volumes(many.predictions))
        print(f"\nWrote {len(many.predictions)} of {len(scans)} masks in {many.folder}")
    if many.failed:
        for name, reason in many.failed.items():
            say(f"{name}: {reason}")
        raise WorkFailed(f"{len(many.failed)} of {len(scans)} scans without a mask: {', '.join(many.failed)}")


def _volumes(predictions: "dict[str, Prediction]") -> str:
    """The volumes of the classes in ml, scan by scan."""
    classes = [*next(iter(predictions.values())).volumes_ml]
    width = max(len(name) for name in ("volumes in ml", *predictions))
    columns = [max(10, len(name) + 2) for name in classes]
    lines = [f"{'volumes in ml':<{width}}" + "".join(f"{n:>{w}}" for n, w in zip(classes, columns, strict=True))]
    for name, one in predictions.items():
        cells = (f"{one.volumes_ml[title]:>{w}.1f}" for title, w in zip(classes, columns, strict=True))
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


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
    from r2d2.segeval import foreground
    from r2d2.segeval.report import summary

    rows = [("Mean or median (95 % interval)", ["all", *(name for _, name in foreground(labels))])]
    rows += summary(estimates, labels)
    first = max(len(title) for title, _ in rows)
    widths = [max(len(cells[column]) for _, cells in rows) for column in range(len(rows[0][1]))]
    return "\n".join(
        f"{title:<{first}}  " + "  ".join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=True)).rstrip()
        for title, cells in rows
    )
