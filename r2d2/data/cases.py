"""The annotated cases of a dataset: whose they are, which files they consist of, what is in them."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from r2d2 import imgmed
from r2d2.config import Data
from r2d2.data.layouts import read_layout
from r2d2.errors import InputError

CLASS_NAME = re.compile(r"[\w.\- :]+(/[\w.\- :]+)*")
"""What MLflow takes as a part of a metric's name."""


@dataclass(frozen=True)
class Case:
    """One annotated scan of a patient.

    Attributes:
        name: The name of its file without suffix, or of its folder.
        patient: Whose scan it is, as `data.patient_pattern` takes it from the name.
        images: The scan's files, one for each channel if they are several; or the folder of its DICOM series.
        label: The mask's file.
        structures: For an RTSTRUCT or SEG the names of its regions or segments by the classes' values, or several names
            of which it has one; the background is what is in none.
        remap: For other masks the class' number of each value that is not its own.
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    label: Path
    structures: dict[int, str | tuple[str, ...]] = field(default_factory=dict)
    remap: dict[int, int] = field(default_factory=dict)

    def read(self) -> tuple[imgmed.Volume, imgmed.Volume]:
        """Read the scan, float32, (X, Y, Z) or (X, Y, Z, C), and the mask, uint8.

        Raises:
            InputError: A file cannot be read, the channels' files are not on one grid, or the mask belongs to another
                series.
        """
        image = imgmed.read_channels(self.images)
        if self.structures:
            series = self.images[0] if self.images[0].is_dir() else None
            return image, imgmed.read_structures(self.label, image, self.structures, series)
        return image, imgmed.read_labels(self.label, self.remap)


@dataclass(frozen=True)
class Dataset:
    """The annotated cases of a folder.

    Attributes:
        name: The dataset's own, or its folder's.
        labels: The classes by their value in the masks, 0 the background, in rising order.
        channels: The names of a scan's channels, in their order along its fourth axis.
        cases: Sorted by name.
        licence: On what terms it may be used; may be empty.
        passed_over: Files beside the scans and masks that are of no format that is read.
    """

    name: str
    labels: dict[int, str]
    channels: tuple[str, ...]
    cases: tuple[Case, ...]
    licence: str = ""
    passed_over: tuple[Path, ...] = ()


def find_cases(data: Data) -> Dataset:
    """Return the dataset in a folder, without reading its voxels.

    Args:
        data: Its `path` is a folder of this machine in one of the layouts that `r2d2.data.layouts` lists. Hidden files
            (`._*` of macOS) are passed over. `labels`, if given, wins over `dataset.json`.

    Raises:
        InputError: As `read_layout`; or no classes are named, or two alike, or one by a name that cannot be a
            metric's; or `structures` or `remap` lead to a class that there is not; or `patient_pattern` does not fit a
            name.
    """
    folder = Path(data.path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of data (data.path)")
    layout = read_layout(folder, data.labels)
    labels = layout.labels
    if labels is None:
        raise InputError(f"{folder}: name the classes in data.labels, e.g. {{0: background, 1: lesion}}")
    if sorted(labels) != list(range(len(labels))):
        raise InputError(f"{folder}: the classes must be numbered 0 (background), 1, 2, ...; they are {sorted(labels)}")
    _check_class_names(labels, folder)
    labels = dict(sorted(labels.items()))
    regions = {value: name for value, name in labels.items() if value} | (data.structures or {})
    remap = data.remap or {}
    for key, values in (("structures", regions), ("remap", remap.values())):
        for value in values:
            if value not in labels or (key == "structures" and not value):
                raise InputError(f"data.{key}: leads to {value}, which is none of the classes {labels}")
    patient_of = patient_reader(data.patient_pattern)
    cases = [
        Case(scan.name, patient_of(scan.name), scan.images, scan.label, regions)
        if scan.structures
        else Case(scan.name, patient_of(scan.name), scan.images, scan.label, remap=remap)
        for scan in layout.scans
    ]
    for name, count in Counter(case.name for case in cases).items():
        if count > 1:
            raise InputError(f"{folder}: {count} scans are named {name}; a case's name must be its own")
    return Dataset(
        name=layout.name or folder.resolve().name,
        labels=labels,
        channels=layout.channels or _numbered_channels(cases[0]),
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        licence=layout.licence,
        passed_over=layout.passed_over,
    )


def _numbered_channels(case: Case) -> tuple[str, ...]:
    shape, _ = imgmed.read_geometry(case.images[0])
    return tuple(str(channel) for channel in range(shape[3] if len(shape) == 4 else 1))


def patient_reader(pattern: str) -> Callable[[str], str]:
    """Return what takes the patient from a case's name, by a `data.patient_pattern`.

    Raises:
        InputError: It is no regular expression; or, when called, it does not fit the name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"data.patient_pattern {pattern!r}: not a regular expression ({error})") from None
    return partial(_patient_of, compiled)


def _patient_of(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.search(name)
    patient = match.group(1 if pattern.groups else 0) if match else None
    if not patient:
        raise InputError(f"data.patient_pattern {pattern.pattern!r}: takes no patient from the name of case {name}")
    return patient


def _check_class_names(labels: Mapping[int, str], folder: Path) -> None:
    for value, name in labels.items():
        parts = name.split("/")
        if not CLASS_NAME.fullmatch(name) or "." in parts or ".." in parts or len(name) > 200:
            raise InputError(
                f"{folder}: class {value} is called {name!r}; letters, digits, spaces and . _ - : and / between them "
                "can be recorded; call it otherwise in data.labels"
            )
    for name, count in Counter(labels.values()).items():
        if count > 1:
            raise InputError(f"{folder}: {count} classes are called {name!r}; a class' name must be its own")
