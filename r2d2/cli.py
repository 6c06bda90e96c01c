"""The command line: one short handler a command, heavy imports inside the engine's functions."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from r2d2 import __version__
from r2d2.console import command
from r2d2.errors import InputError, WorkFailed

app = typer.Typer(
    help="From raw scans to an evaluated, registered segmentation model.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Datasets: fetch, check, prepare, make virtual ones.")
runs_app = typer.Typer(help="Training runs.")
zoo_app = typer.Typer(help="The model zoo.")
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")
app.add_typer(zoo_app, name="zoo")

MOST_ROWS = 40
"""How many cases a table on the terminal shows."""
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document on standard output.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")]


def main() -> None:
    """The console script: errors meant for people are one line, exit code 2; failed work is exit code 1."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:  # a wrong option or argument
        context = getattr(error, "ctx", None)
        told = " ".join(error.format_message().split())
        _fail(f"{told} ({context.command_path if context else 'r2d2'} --help says more)", 2)
    except InputError as error:
        _fail(error, 2)
    except WorkFailed as error:
        _fail(error, 1)
    if code == 130:  # Ctrl-C, as Typer tells it
        _fail("stopped", 130)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())
    else:
        return
    raise typer.Exit


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Option(help="Where pictures and masks go (R2D2_HOME/demo).")] = None,
    workers: Annotated[int, typer.Option(help="Workers in the ring.")] = 2,
    as_json: Json = False,
) -> None:
    """The whole street on real anatomy, on this machine, in about two minutes."""
    from r2d2.engine.demo import demo as run

    result = run(folder, workers)
    _answer(result) if as_json else print(result.text)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is installed, built and reachable, and what to do about the rest."""
    from r2d2.engine.doctor import doctor as run

    checks = run()
    if as_json:
        _answer(checks)
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = "ok  " if check.ok else "MISS" if check.required else "-   "
            print(f"{mark}  {check.name:<{width}}  {check.found}")
            if check.remedy:
                print(f"      {'':<{width}}  -> {check.remedy}")
    if not all(check.ok or not check.required for check in checks):
        raise typer.Exit(1)


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
        _answer(result)
        return
    print(_table(result.rows, result.metrics))
    print(f"\nRun {result.run_id}: registered {result.model} (alias candidate), weights of epoch {result.best_epoch}")
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
        _answer(result.document | {"report": result.report})
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
        _answer(result)
        return
    for name, volume in result.volumes_ml.items():
        print(f"{name:<20} {volume:10.1f} ml")
    print(f"Wrote {result.mask} ({'x'.join(map(str, result.shape))}, the grid of {scan[0]})")


@data_app.command()
def fetch(
    task: Annotated[str, typer.Argument(help="Task02_Heart, task02, heart or 2; another word lists them all.")],
    folder: Annotated[Path, typer.Argument(help="Where the task's folder will lie.")] = Path("data"),
    url: Annotated[str | None, typer.Option(help="Another address of the same archive, such as a mirror's.")] = None,
    keep_archive: Annotated[bool, typer.Option(help="Leave the archive there, too.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a public dataset, a task of the Medical Segmentation Decathlon; run again, it goes on where it stopped."""
    from r2d2.engine.data import fetch as run

    result = run(task, folder, url, keep_archive)
    if as_json:
        _answer(result)
        return
    print(f"{result.task}: {result.cases} annotated scans in {result.folder} (licence: {result.licence or 'not said'})")
    print(f"Next: {shlex.join([command(), 'data', 'check', str(result.folder)])}")


@data_app.command()
def synthesize(
    kind: Annotated[str, typer.Argument(help="brain, brats or atrium.")],
    folder: Annotated[Path, typer.Argument(help="A new folder, in Decathlon layout.")],
    patients: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    spacing_mm: Annotated[float | None, typer.Option(help="Edge of a voxel; the kind's own if absent.")] = None,
    as_json: Json = False,
) -> None:
    """Make virtual patients from real anatomy, with their labels."""
    from r2d2.engine.data import synthesize as run

    made = run(kind, folder, patients, seed, spacing_mm)
    if as_json:
        _answer({"folder": made, "patients": patients})
        return
    print(f"Made {patients} virtual patients in {made}\nNext: {command()} data check {made}")


@data_app.command()
def check(
    path: Annotated[str, typer.Argument(help="A folder of scans and masks, its URL, or an experiment file.")],
    labels: Annotated[str | None, typer.Option(help='Classes of a plain folder: "0: background, 1: lesion".')] = None,
    as_json: Json = False,
) -> None:
    """Read every scan and mask of a dataset and say what would spoil a training; exit code 2 if anything would."""
    from r2d2.engine.data import check as run

    result = run(path, labels)
    if as_json:
        _answer(result)
    else:
        print(result.text)
    if result.errors:
        raise typer.Exit(2)


@data_app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="An experiment file.")],
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture's file.")] = Path("inspect.png"),
    as_json: Json = False,
) -> None:
    """Draw what the network will see: slices of a few patients as prepared, their masks, and as augmented."""
    from r2d2 import config
    from r2d2.engine.data import inspect as run

    picture = run(config.load(file, overrides or []), output)
    if as_json:
        _answer({"picture": picture})
    else:
        print(f"Drew {picture}")


@data_app.command()
def prepare(
    file: Annotated[Path, typer.Argument(help="An experiment file.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Slice, resize and normalize an experiment's scans once, for all its runs."""
    from r2d2 import config
    from r2d2.engine.prepare import prepare as run

    experiment = config.load(file, overrides or [])
    prepared, split = run(experiment)
    counts = {part: len(names) for part, names in split.items()}
    slices = sum(case.slices for case in prepared.cases)
    training = len(prepared.training_rows(split["training"], experiment.preprocess.slices))
    if as_json:
        _answer({"folder": prepared.folder, "slices": slices, "training_slices": training, "cases": counts})
        return
    parts = ", ".join(f"{count} {part}" for part, count in counts.items())
    print(f"{len(prepared.cases)} cases ({parts}), {slices} slices, {training} of them to train on")
    print(f"In {prepared.folder}\nNext: {shlex.join([command(), 'train', str(file), *(overrides or [])])}")


@runs_app.command("list")
def runs_list(as_json: Json = False) -> None:
    """The runs, the latest first."""
    from r2d2.tracking import queries

    rows = queries.list_runs()
    if as_json:
        _answer(rows)
        return
    if not rows:
        print(f"No runs yet. Next: {command()} demo")
    for row in rows:
        dice = "" if row["test/dice"] is None else f"test dice {row['test/dice']:.3f}"
        print(f"{row['run_id']}  {row['status']:<9} {row['started']}  {row['name']:<32} {dice}")


@runs_app.command("show")
def runs_show(run: Annotated[str, typer.Argument(help="A run's id or name.")], as_json: Json = False) -> None:
    """One run: its state, its latest metrics, its settings."""
    from r2d2.tracking import queries

    found = queries.show_run(run)
    if as_json:
        _answer(found)
        return
    for part in ("run_id", "name", "status", "started"):
        print(f"{part:<24} {found[part]}")
    for part in ("tags", "metrics", "params"):
        print(f"\n{part}")
        for key, value in found[part].items():
            print(f"  {key:<34} {value:.6g}" if isinstance(value, float) else f"  {key:<34} {value}")


@runs_app.command("stop")
def runs_stop(run: Annotated[str, typer.Argument(help="A run's id or name.")], as_json: Json = False) -> None:
    """Ask a run to leave well: with a checkpoint, evaluated and registered as it is; wait until it has."""
    from r2d2.engine.runs import stop

    result = stop(run)
    if as_json:
        _answer(result)
    else:
        print(f"Run {result['run_id']}: {result['status'].lower()}, {result['reason']}")


@zoo_app.command("list")
def zoo_list(as_json: Json = False) -> None:
    """Every version of every registered model."""
    from r2d2.tracking import queries

    versions = queries.list_models()
    if as_json:
        _answer(versions)
        return
    if not versions:
        print(f"No models yet. Next: {command()} demo")
    for version in versions:
        aliases = " ".join(f"@{alias}" for alias in version.aliases)
        print(f"{version.name}/{version.version:<4} {aliases:<24} run {version.run_id}")


def _answer(value: Any) -> None:
    print(json.dumps(_plain(value), indent=1))


def _plain(value: Any) -> Any:
    """Whatever the engine returns, in JSON's terms."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


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


def _fail(error: object, code: int) -> None:
    print(f"r2d2: {error}", file=sys.stderr)
    sys.exit(code)
