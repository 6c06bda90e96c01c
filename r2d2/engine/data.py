"""Datasets: fetch public ones, make virtual patients, check what is there."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from r2d2 import config
from r2d2.console import bar, bars
from r2d2.errors import InputError


@dataclass(frozen=True)
class Checked:
    """What a check found: one-line `errors` and `warnings`, a row a case, and all of it as text for people."""

    errors: list[str]
    warnings: list[str]
    cases: list[dict[str, Any]]
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


def check(folder: Path, labels: str | None = None) -> Checked:
    """Check every case of a dataset.

    Args:
        folder: The dataset.
        labels: Its classes as YAML (`0: background, 1: lesion`), where no dataset.json says them.

    Raises:
        InputError: The folder is no dataset.
    """
    from r2d2.data.cases import check_cases, find_cases

    dataset = find_cases(_settings(folder, labels))
    with bar("Checking", len(dataset.cases)) as advance:
        result = check_cases(dataset, progress=advance)

    errors = [finding.message for finding in result.findings if finding.severity == "error"]
    warnings = [finding.message for finding in result.findings if finding.severity == "warning"]
    lines = [f"{dataset.name}: {len(dataset.cases)} cases, channels {', '.join(dataset.channels)}"]
    if dataset.licence:
        lines.append(textwrap.shorten(f"licence: {dataset.licence}", 120, placeholder=" ..."))
    rows = []
    for summary in result.summaries:
        spacing = " x ".join(f"{size:.3g}" for size in summary.spacing_mm)
        voxels = {dataset.labels[value]: count for value, count in summary.voxels.items()}
        rows.append({"case": summary.case, "shape": summary.shape, "spacing_mm": summary.spacing_mm, "voxels": voxels})
        shape = "x".join(str(size) for size in summary.shape)
        classes = ", ".join(f"{name} {count}" for name, count in voxels.items() if name != dataset.labels[0])
        lines.append(f"  {summary.case:<24} {shape:<14} {spacing} mm   {classes} voxels")
    lines += [f"error: {message}" for message in errors] + [f"warning: {message}" for message in warnings]
    lines.append("Would spoil a training; mend the errors first." if errors else "Nothing here would spoil a training.")
    return Checked(errors, warnings, rows, "\n".join(lines))


def _settings(folder: Path, labels: str | None) -> config.Data:
    try:
        return config.Data(path=folder, labels=yaml.safe_load(f"{{{labels}}}") if labels else None)
    except (yaml.YAMLError, ValueError):
        raise InputError(f'--labels {labels!r}: write numbers and names, like "0: background, 1: lesion"') from None
