"""Datasets: fetch, check, prepare, look at, make virtual ones."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from r2d2.cli.common import Json, Overrides, answer, data_app
from r2d2.console import command


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
        answer(result)
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
        answer({"folder": made, "patients": patients})
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
        answer(result)
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
        answer({"picture": picture})
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
        answer({"folder": prepared.folder, "slices": slices, "training_slices": training, "cases": counts})
        return
    parts = ", ".join(f"{count} {part}" for part, count in counts.items())
    print(f"{len(prepared.cases)} cases ({parts}), {slices} slices, {training} of them to train on")
    print(f"In {prepared.folder}\nNext: {shlex.join([command(), 'train', str(file), *(overrides or [])])}")
