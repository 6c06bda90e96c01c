"""Datasets: fetch public ones, make virtual patients, check what is there."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2 import config
from r2d2.config.reading import read_value
from r2d2.console import bar, bars
from r2d2.data.fingerprint import Fingerprint
from r2d2.engine.prepare import storage
from r2d2.errors import InputError

if TYPE_CHECKING:
    from r2d2.data.cases import Dataset


@dataclass(frozen=True)
class Checked:
    """What a check found: one-line `errors` and `warnings`, a row a case, the fingerprint, all as text for people."""

    errors: list[str]
    warnings: list[str]
    cases: list[dict[str, Any]]
    fingerprint: Fingerprint | None
    text: str


@dataclass(frozen=True)
class Fetched:
    """A public dataset on this machine: how many annotated scans, in which folder, on what terms."""

    task: str
    folder: Path
    cases: int
    licence: str


def fetch(task: str, folder: Path, url: str | None = None, keep_archive: bool = False) -> Fetched:
    """Fetch a task of the Medical Segmentation Decathlon; see `r2d2.data.fetch.fetch`."""
    from r2d2.data.cases import find_cases
    from r2d2.data.fetch import fetch as get

    with bars() as report:
        made = get(task, folder, url, keep_archive, progress=report)
    dataset = find_cases(config.Data(path=made))
    return Fetched(made.name, made, len(dataset.cases), dataset.licence)


def synthesize(kind: str, folder: Path, patients: int, seed: int, spacing_mm: float | None) -> Path:
    """Make virtual patients; see `r2d2.data.synthesis.synthesize`."""
    from r2d2.data.synthesis import synthesize as make

    with bar("Virtual patients", patients) as advance:
        return make(kind, folder, patients, seed, spacing_mm, progress=advance)


def listed(path: Path | str, labels: str | None = None) -> "Dataset":
    """The cases of a dataset in a folder of this machine, without their voxels.

    Args:
        path: Its folder.
        labels: As for `check`.

    Raises:
        InputError: It is no dataset, or elsewhere.
    """
    from r2d2.data.cases import find_cases

    if "://" in str(path):
        raise InputError(f"{path}: data at a URL is fetched first; `r2d2 data check` does it")
    return find_cases(_settings(path, labels))


def check(path: Path | str, labels: str | None = None) -> Checked:
    """Check every case of a dataset.

    Args:
        path: Its folder, here or at a URL; or an experiment file, whose `data.split` and `preprocess` are checked too.
        labels: The classes of a folder as YAML (`0: background, 1: lesion`), where no dataset.json says them.

    Raises:
        InputError: It is no dataset, its patients cannot be split, or it lacks a channel that is asked for.
    """
    from r2d2.data.cases import find_cases
    from r2d2.data.check import check_cases
    from r2d2.data.framing import chosen_channels
    from r2d2.data.mirror import here
    from r2d2.data.split import split_patients

    preprocess = None
    if Path(path).is_file():
        if labels:
            raise InputError(f"--labels: the experiment file {path} names the classes, in data.labels")
        experiment = config.load(path)
        preprocess = experiment.preprocess
        dataset = find_cases(here(experiment.data, storage(experiment)))
        split_patients(dataset, experiment.data.split)
        chosen_channels(dataset.channels, preprocess)
    else:
        dataset = find_cases(here(_settings(path, labels), config.home()))
    with bar("Checking", len(dataset.cases)) as advance:
        result = check_cases(dataset, progress=advance, preprocess=preprocess)

    errors = [finding.message for finding in result.findings if finding.severity == "error"]
    warnings = [finding.message for finding in result.findings if finding.severity == "warning"]
    rows = [
        {
            "case": summary.case,
            "shape": summary.shape,
            "spacing_mm": summary.spacing_mm,
            "voxels": {dataset.labels[value]: count for value, count in summary.voxels.items()},
        }
        for summary in result.summaries
    ]
    lines = [f"{dataset.name}: {len(dataset.cases)} cases, channels {', '.join(dataset.channels)}"]
    if dataset.licence:
        lines.append(textwrap.shorten(f"licence: {dataset.licence}", 120, placeholder=" ..."))
    lines += ["", *_table(rows), ""]
    if result.fingerprint:
        lines += [*_told(result.fingerprint, dataset.labels), ""]
    lines += [f"error: {message}" for message in errors] + [f"warning: {message}" for message in warnings]
    lines.append("Would spoil a training; mend the errors first." if errors else "Nothing here would spoil a training.")
    return Checked(errors, warnings, rows, result.fingerprint, "\n".join(lines))


def inspect(experiment: config.Experiment, picture: Path, cases: int = 4) -> Path:
    """Draw what the network will see: a slice of some patients as prepared, its mask, and augmented as in training.

    Args:
        experiment: Its data are prepared, or found prepared.
        picture: The .png file.
        cases: How many at most, spread evenly over the dataset; of each the slice with the most foreground.

    Raises:
        InputError: As `engine.prepare.prepare`, or the picture cannot be written.
    """
    import numpy as np

    from r2d2.data.prepare import augmentation
    from r2d2.engine.prepare import prepare
    from r2d2.files import whole_file
    from r2d2.imgmed import augment, check_writable
    from r2d2.segeval.overlay import Panel, mosaic, upright

    if picture.suffix != ".png":
        raise InputError(f"{picture}: the picture's name must end in .png")
    check_writable(picture)
    prepared, _ = prepare(experiment)
    ranges = augmentation(experiment)
    rows, aspects = [], []
    for number in np.unique(np.linspace(0, len(prepared.cases) - 1, cases).round().astype(int)):
        case = prepared.cases[number]
        masks = prepared.masks[case.first : case.first + case.slices]
        row = case.first + int(np.count_nonzero(masks, axis=(1, 2)).argmax())
        image, mask = prepared.images[row].astype(np.float32), np.array(prepared.masks[row])
        panels = [
            Panel(upright(image[..., c]), f"{case.name}, channel {name}") for c, name in enumerate(prepared.channels)
        ]
        panels.append(Panel(upright(image[..., 0]), f"slice {row - case.first + 1} of {case.slices}", upright(mask)))
        for epoch in range(2 if ranges else 0):
            assert ranges is not None
            size = experiment.preprocess.image_size
            drawn = augment.draw(ranges, experiment.training.seed, epoch, row, size, case.pixel_mm)
            moved, moved_mask = augment.apply(drawn, image, mask)
            panels.append(Panel(upright(moved[..., 0]), f"in epoch {epoch + 1}", upright(moved_mask)))
        rows.append(panels)
        down_mm, across_mm = case.pixel_mm
        aspects.append(across_mm / down_mm)  # upright exchanges them
    pixels = "x".join(str(length) for length in experiment.preprocess.image_size)
    title = f"{experiment.name}: what the network sees, {pixels} pixels, {experiment.preprocess.normalization}"
    with whole_file(picture) as beside:
        mosaic(rows, prepared.labels, title, aspects).savefig(beside, format="png")
    return picture


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """A line a case: its name, shape, spacing and the voxels of every class."""
    if not rows:
        return ["no case could be read"]
    foreground = list(rows[0]["voxels"])[1:]
    cells = [["case", "shape", "spacing in mm", *foreground]]
    for row in rows:
        shape = "x".join(str(size) for size in row["shape"])
        spacing = " x ".join(f"{size:.3g}" for size in row["spacing_mm"])
        cells.append([row["case"], shape, spacing, *(str(row["voxels"][name]) for name in foreground)])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        "  " + "  ".join(f"{cell:<{width}}" if column < 3 else f"{cell:>{width}}" for column, (cell, width) in pairs)
        for pairs in (list(enumerate(zip(line, widths, strict=True))) for line in cells)
    ]


def _told(found: Fingerprint, labels: dict[int, str]) -> list[str]:
    """The fingerprint in a few lines."""

    def span(values: dict[str, tuple[float, ...]]) -> str:
        three = (" x ".join(f"{value:.3g}" for value in values[name]) for name in ("min", "median", "max"))
        return "{} to {} to {}".format(*three)

    lines = ["smallest, median, largest, axes to the right, front, top"]
    lines += [f"  voxels         {span(found.shape)}", f"  spacing in mm  {span(found.spacing_mm)}"]
    lines.append("classes")
    for value, name in labels.items():
        share = found.classes[name]
        volume = (
            "" if not share["volume_ml"] else ", {min:.4g} to {median:.4g} to {max:.4g} ml".format(**share["volume_ml"])
        )
        if value:
            lines.append(f"  {name:<20} in {share['cases']} of {found.cases} cases{volume}")
    lines.append("intensities, 0.5, 50 and 99.5 percentile")
    for channel, classes in found.intensities.items():
        for name, values in classes.items():
            told = " ".join(f"{values[key]:>9.4g}" for key in ("p0.5", "p50", "p99.5")) if values else "not finite"
            lines.append(f"  {channel + ', ' + name:<30} {told}")
    return lines


def _settings(folder: Path | str, labels: str | None) -> config.Data:
    try:
        return config.Data(path=folder, labels=read_value(f"{{{labels}}}") if labels else None)
    except ValueError:
        raise InputError(f'--labels {labels!r}: write numbers and names, like "0: background, 1: lesion"') from None
