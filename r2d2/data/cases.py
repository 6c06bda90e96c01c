"""The annotated cases of a dataset: found in a folder, checked file by file, split by patient."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from r2d2 import imgmed
from r2d2.config import Data, Split
from r2d2.data.fingerprint import Fingerprint, fingerprint, sample_intensities
from r2d2.data.parallel import spread
from r2d2.errors import InputError

PARTS = ("training", "validation", "test")
AFFINE_TOLERANCE = 1e-3
SPACING_FACTOR = 2.0
VISIT = re.compile(r"(.+?)[_-](?:ses|session|visit|scan|time|tp|t|v|s)[_-]?\d+", re.IGNORECASE)
"""How scans of one patient are often called: P07_visit2, sub-012_ses-01."""
CLASS_NAME = re.compile(r"[\w.\- :]+(/[\w.\- :]+)*")
"""What MLflow takes as a part of a metric's name."""


@dataclass(frozen=True)
class Case:
    """One annotated scan of a patient.

    Attributes:
        name: The name of its file without .nii or .nii.gz.
        patient: Whose scan it is, as `data.patient_pattern` takes it from the name.
        images: The scan's file or files.
        label: The mask's file.
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class Dataset:
    """The annotated cases of a folder.

    Attributes:
        name: The dataset's own, or its folder's.
        labels: The classes by their value in the masks, 0 the background, in rising order.
        channels: The names of a scan's channels, in their order along its fourth axis.
        cases: Sorted by name.
        licence: On what terms it may be used; may be empty.
    """

    name: str
    labels: dict[int, str]
    channels: tuple[str, ...]
    cases: tuple[Case, ...]
    licence: str = ""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a case: an `error` keeps it from being used, a `warning` does not. One line."""

    case: str
    severity: Literal["error", "warning"]
    message: str


@dataclass(frozen=True)
class CaseSummary:
    """What a case holds.

    Attributes:
        case: Its name.
        shape: (X, Y, Z) in voxels, on the scan's own axes.
        spacing_mm: Of the axes X, Y, Z in that order.
        canonical_shape: The shape along right, front, top.
        canonical_spacing_mm: The spacing along these.
        channels: How many.
        voxels: How many voxels the mask has of each class of the dataset, by its value.
        files: SHA-256 of the bytes of the image files, one after another, and of the mask's.
        content: SHA-256 of the scan's voxels (its first channel's), canonical axes: that of the same scan under another
            name, compressed anew or with its axes turned.
        intensities: Class -> channel -> intensities, from `sample_intensities`; none if scan and mask are not of one
            shape.
    """

    case: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    canonical_shape: tuple[int, ...]
    canonical_spacing_mm: tuple[float, float, float]
    channels: int
    voxels: dict[int, int]
    files: tuple[str, str]
    content: str
    intensities: dict[int, list[list[float]]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Check:
    """What `check_cases` found, the summaries of the cases that could be read, in their order, and what all hold."""

    findings: tuple[Finding, ...]
    summaries: tuple[CaseSummary, ...]
    fingerprint: Fingerprint | None = field(compare=False)


def find_cases(data: Data) -> Dataset:
    """Return the dataset in a folder, without reading its voxels.

    Args:
        data: Its `path` is a folder of this machine with a `dataset.json` of the Medical Segmentation Decathlon, whose
            `training` list names the annotated scans; or one with scans in `images/` and masks of the same names in
            `labels/`. Hidden files (`._*` of macOS) are passed over. `labels`, if given, wins over `dataset.json`.

    Raises:
        InputError: The folder or a file is missing; a scan has no mask or a mask no scan; `dataset.json` is damaged
            or names a path outside the folder; no classes are named, or two alike, or one by a name that cannot be a
            metric's; `patient_pattern` does not fit a name.
    """
    folder = Path(data.path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of data (data.path)")
    description_file = folder / "dataset.json"
    if description_file.exists():
        about = _read_json(description_file)
        pairs = _decathlon_pairs(about, description_file)
        labels = data.labels or _by_number(about, "labels", description_file)
        channels = tuple(_by_number(about, "modality", description_file).values())
    else:
        about = {}
        pairs = _plain_pairs(folder)
        if data.labels is None:
            raise InputError(f"{folder}: name the classes in data.labels, e.g. {{0: background, 1: lesion}}")
        labels = data.labels
        shape, _ = imgmed.read_geometry(pairs[0][0])
        channels = tuple(str(channel) for channel in range(shape[3] if len(shape) == 4 else 1))
    if sorted(labels) != list(range(len(labels))):
        raise InputError(f"{folder}: the classes must be numbered 0 (background), 1, 2, ...; they are {sorted(labels)}")
    _check_class_names(labels, folder)
    patient_of = _patient_reader(data.patient_pattern)
    cases = [Case(_stem(image), patient_of(_stem(image)), (image,), label) for image, label in pairs]
    for name, count in Counter(case.name for case in cases).items():
        if count > 1:
            raise InputError(f"{folder}: {count} scans are named {name}; a case's name must be its own")
    return Dataset(
        name=str(about.get("name") or folder.resolve().name),
        labels=dict(sorted(labels.items())),
        channels=channels,
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        licence=str(about.get("licence") or about.get("license") or ""),
    )


def check_cases(dataset: Dataset, workers: int | None = None, progress: Callable[[], None] | None = None) -> Check:
    """Read every image and mask once, several at a time, and return what is wrong and what they hold.

    Errors are files that cannot be read, a mask on another grid than its scan (shape, or affine by more than 1e-3 in
    an entry), label values outside the classes, NaN or infinity, a channel with one value throughout, another number
    of channels than the dataset's, the same scan under two names and of two patients. Warnings are a mask with
    background alone, the same scan twice of one patient, a spacing that is more than twice or less than half of the
    median one, and names that look like several scans of one patient which `data.patient_pattern` takes apart.

    Args:
        dataset: From `find_cases`.
        workers: How many processes, by default one per CPU that this process may use; 1 works in this process.
        progress: Called once per finished case.
    """
    inspect = partial(_inspect_and_drop, labels=tuple(dataset.labels), channels=dataset.channels)
    found: dict[str, Inspected] = {}
    for name, inspected in spread(inspect, dataset.cases, workers):
        found[name] = inspected
        if progress:
            progress()
    inspections = [found[case.name] for case in dataset.cases]
    findings = [finding for inspected in inspections for finding in inspected.findings]
    summaries = tuple(inspected.summary for inspected in inspections if inspected.summary)
    findings += same_scans(dataset.cases, {summary.case: summary.content for summary in summaries})
    findings += [*_odd_spacings(summaries), *_visits_taken_apart(dataset.cases)]
    return Check(tuple(findings), summaries, fingerprint(summaries, dataset.labels, dataset.channels))


def same_scans(cases: Iterable[Case], contents: Mapping[str, str]) -> list[Finding]:
    """Return what is wrong with cases that hold the same scan: an error if they are two patients' by their names.

    Args:
        cases: The cases.
        contents: `CaseSummary.content` by the case's name, of those that are known.
    """
    findings: list[Finding] = []
    first: dict[str, Case] = {}
    for case in cases:
        content = contents.get(case.name)
        other = first.setdefault(content, case) if content else case
        if other is case:
            continue
        same = f"case {case.name}: the same scan as {other.name}"
        if case.patient == other.patient:
            findings.append(Finding(case.name, "warning", f"{same}; one of the two adds nothing"))
        else:
            rule = "a patient must not be in two splits; remove one, or give both one patient by data.patient_pattern"
            findings.append(Finding(case.name, "error", f"{same}, under another patient's name; {rule}"))
    return findings


def _odd_spacings(summaries: Sequence[CaseSummary]) -> Iterable[Finding]:
    if len(summaries) < 3:
        return
    median = np.median([summary.canonical_spacing_mm for summary in summaries], axis=0)
    for summary in summaries:
        ratios = np.array(summary.canonical_spacing_mm) / median
        if ratios.max() > SPACING_FACTOR or ratios.min() < 1 / SPACING_FACTOR:
            own, usual = (
                " x ".join(f"{mm:.3g}" for mm in spacing) for spacing in (summary.canonical_spacing_mm, median)
            )
            message = f"case {summary.case}: a spacing of {own} mm, where {usual} mm is usual; is its header right?"
            yield Finding(summary.case, "warning", message)


def _visits_taken_apart(cases: Iterable[Case]) -> Iterable[Finding]:
    first: dict[str, Case] = {}
    for case in cases:
        if visit := VISIT.fullmatch(case.name):
            other = first.setdefault(visit[1], case)
            if other.patient != case.patient:
                message = (
                    f"case {case.name}: by its name of the same patient as {other.name}, by data.patient_pattern not"
                )
                yield Finding(case.name, "warning", f'{message}; try patient_pattern: "^(.+?)[_-][A-Za-z]+-?[0-9]+$"')
                return


def split_patients(dataset: Dataset, split: Split) -> dict[str, tuple[str, ...]]:
    """Return which cases train, validate and test; all of a patient's cases go to one part.

    Args:
        dataset: From `find_cases`.
        split: Lists of patients, which win (who is in none is left out); or folds; or fractions. Folds and fractions
            are drawn with the seed from the sorted patients, so that the order of files on the disk plays no part.

    Returns:
        `training`, `validation`, `test` -> names of cases, in the dataset's order. By fractions every part whose
        fraction is not 0 has a patient.

    Raises:
        InputError: There are fewer patients than parts or folds; a list names a patient whom the dataset lacks, or two
            lists name the same one.
    """
    patients = sorted({case.patient for case in dataset.cases})
    if split.training is not None:
        part_of = _listed(patients, split)
    else:
        drawn = [patients[i] for i in np.random.default_rng(split.seed).permutation(len(patients))]
        part_of = _folded(drawn, split.folds, split.fold) if split.folds else _fractioned(drawn, split.fractions)
    return {part: tuple(c.name for c in dataset.cases if part_of.get(c.patient) == part) for part in PARTS}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(about, dict):
        raise InputError(f"{path}: must hold one object with labels, modality and training")
    return about


def _by_number(about: dict[str, Any], key: str, source: Path) -> dict[int, str]:
    """Return an object of `dataset.json` like {"0": "background", "1": "edema"} by its numbers, in rising order."""
    try:
        names = {int(number): str(name) for number, name in about[key].items()}
    except (KeyError, AttributeError, ValueError):
        raise InputError(f'{source}: "{key}" must be an object of numbers and names, like {{"0": "..."}}') from None
    if not names or not all(0 <= number <= 254 for number in names):
        raise InputError(f'{source}: the numbers of "{key}" must be 0 to 254, they are {sorted(names)}')
    return dict(sorted(names.items()))


def _decathlon_pairs(about: dict[str, Any], source: Path) -> list[tuple[Path, Path]]:
    entries = about.get("training")
    if not isinstance(entries, list) or not entries:
        raise InputError(f'{source}: "training" must list the annotated scans')
    pairs = []
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise InputError(f'{source}: an entry of "training" must have "image" and "label", this is {entry!r:.80}')
        if not PurePosixPath(entry["image"]).name.startswith("._"):
            pairs.append((_inside(source, entry["image"]), _inside(source, entry["label"])))
    if not pairs:
        raise InputError(f'{source}: "training" lists hidden files alone')
    return pairs


def _inside(source: Path, listed: str) -> Path:
    relative = PurePosixPath(listed)
    if relative.is_absolute() or ".." in relative.parts or "\0" in listed:
        raise InputError(f"{source}: {listed!r} must be a path inside the dataset's folder")
    path = source.parent / relative
    if not path.is_file():
        raise InputError(f"{source}: lists {listed!r}, and there is no file {path}")
    return path


def _plain_pairs(folder: Path) -> list[tuple[Path, Path]]:
    if not ((folder / "images").is_dir() and (folder / "labels").is_dir()):
        raise InputError(f"{folder}: must have a dataset.json, or the folders images and labels (data.path)")
    images, labels = volumes(folder / "images"), volumes(folder / "labels")
    for name in sorted(images.keys() ^ labels.keys()):
        if name in images:
            raise InputError(f"{images[name]}: a scan without a mask; {folder / 'labels'} must have one of that name")
        raise InputError(f"{labels[name]}: a mask without a scan; {folder / 'images'} must have one of that name")
    if not images:
        raise InputError(f"{folder / 'images'}: no .nii or .nii.gz files")
    return [(images[name], labels[name]) for name in sorted(images)]


def volumes(folder: Path) -> dict[str, Path]:
    """Return the volumes of a folder by their names without .nii and .nii.gz."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.endswith((".nii", ".nii.gz")):
            continue
        if _stem(path) in found:
            raise InputError(f"{path}: the same name as {found[_stem(path)].name}; keep one of the two")
        found[_stem(path)] = path
    return found


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _patient_reader(pattern: str) -> Callable[[str], str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"data.patient_pattern {pattern!r}: not a regular expression ({error})") from None

    def patient_of(name: str) -> str:
        match = compiled.search(name)
        patient = match.group(1 if compiled.groups else 0) if match else None
        if not patient:
            raise InputError(f"data.patient_pattern {pattern!r}: takes no patient from the name of case {name}")
        return patient

    return patient_of


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


@dataclass(frozen=True)
class Inspected:
    """What `inspect_case` found, and the volumes themselves if the files could be read."""

    findings: list[Finding]
    summary: CaseSummary | None = None
    images: tuple[imgmed.Volume, ...] = ()
    mask: imgmed.Volume | None = None

    @property
    def errors(self) -> list[str]:
        """The messages of what keeps the case from being used."""
        return [finding.message for finding in self.findings if finding.severity == "error"]


def _inspect_and_drop(case: Case, labels: tuple[int, ...], channels: tuple[str, ...]) -> tuple[str, Inspected]:
    """Inspect a case and leave its volumes behind, which would be slow to hand from one process to another."""
    return case.name, replace(inspect_case(case, labels, channels), images=(), mask=None)


def inspect_case(case: Case, labels: tuple[int, ...], channels: tuple[str, ...]) -> Inspected:
    """Read a case's files and return what is wrong with them, what they hold, and the volumes.

    Args:
        case: The case.
        labels: The classes' values.
        channels: The dataset's channels.
    """
    try:
        images = [imgmed.read_volume(path) for path in case.images]
        mask = imgmed.read_labels(case.label)
        files = file_hashes(case)  # after reading, which refuses a pipe that hashing would wait for
    except InputError as error:
        return Inspected([Finding(case.name, "error", str(error))])

    messages: list[str] = []
    first = images[0]
    shape = first.data.shape[:3]
    for path, image in zip(case.images, images, strict=True):
        messages += _place_errors(first, image, "image", path, case.name)
    stacks = [image.data if image.data.ndim == 4 else image.data[..., np.newaxis] for image in images]
    planes = [stack[..., c] for stack in stacks for c in range(stack.shape[-1])]
    if len(planes) != len(channels):
        messages.append(
            f"{case.images[0]}: {len(planes)} channels, the dataset has {len(channels)} ({', '.join(channels)})"
        )
    for c, plane in enumerate(planes):
        messages += _intensity_errors(plane, f"{case.images[0]}: channel {c}")
    messages += _place_errors(first, mask, "label", case.label, case.name)
    counts = np.bincount(mask.data.ravel(order="K"), minlength=255)
    voxels = {label: int(counts[label]) for label in labels}
    for label in np.flatnonzero(counts):
        if label not in voxels:
            classes = ", ".join(str(known) for known in labels)
            messages.append(f"{case.label}: label {label} ({counts[label]} voxels) is not among the classes {classes}")
    findings = [Finding(case.name, "error", message) for message in messages]
    if not mask.data.any():
        findings.append(Finding(case.name, "warning", f"{case.label}: an empty mask, background alone"))
    canonical = imgmed.to_canonical(first)
    summary = CaseSummary(
        case=case.name,
        shape=shape,
        spacing_mm=first.spacing_mm,
        canonical_shape=canonical.data.shape[:3],
        canonical_spacing_mm=canonical.spacing_mm,
        channels=len(planes),
        voxels=voxels,
        files=files,
        content=_content(canonical.data),
    )
    if mask.data.shape == shape:
        channels_last = stacks[0] if len(stacks) == 1 else np.concatenate(stacks, axis=-1)
        summary = replace(summary, intensities=sample_intensities(channels_last, mask.data, labels))
    return Inspected(findings, summary, tuple(images), mask)


def _content(canonical: np.ndarray) -> str:
    # The first axis is the fastest in the file and mostly in memory, so its transpose needs no copy.
    voxels = np.ascontiguousarray((canonical if canonical.ndim == 3 else canonical[..., 0]).T)
    return hashlib.sha256(voxels.data).hexdigest()


def _place_errors(image: imgmed.Volume, other: imgmed.Volume, kind: str, path: Path, case: str) -> Iterable[str]:
    """Yield in what a mask (or another image of the case) does not lie on the image's grid."""
    left, right = image.data.shape[:3], other.data.shape[:3]
    if left != right:
        sizes = ["x".join(str(n) for n in shape) for shape in (left, right)]
        yield f"{path}: image {sizes[0]}, {kind} {sizes[1]}, case {case}: the shapes must be the same"
    difference = np.abs(image.affine - other.affine).max()
    if difference > AFFINE_TOLERANCE:
        yield (
            f"{path}: the affine of the {kind} differs from the image's by {difference:.3g}, more than "
            f"{AFFINE_TOLERANCE:g}, case {case}: they must lie in the same place"
        )


def _intensity_errors(channel: np.ndarray, where: str) -> Iterable[str]:
    unusable = channel.size - np.count_nonzero(np.isfinite(channel))
    if unusable:
        yield f"{where} has {unusable} voxels of NaN or infinity; intensities must be finite"
    elif channel.min() == channel.max():
        yield f"{where} is {channel.min():g} throughout; an image must not be constant"


def _listed(patients: list[str], split: Split) -> dict[str, str]:
    lists = {part: set(getattr(split, part)) for part in PARTS}
    for part, listed in lists.items():
        for patient in sorted(listed.difference(patients)):
            known = ", ".join(patients[:3]) + (", ..." if len(patients) > 3 else "")
            raise InputError(f"data.split.{part}: no patient {patient!r} in the dataset, which has {known}")
    for left, right in combinations(PARTS, 2):
        for patient in sorted(lists[left] & lists[right]):
            raise InputError(f"data.split: patient {patient!r} is in {left} and in {right}, and may be in one only")
    return {patient: part for part, listed in lists.items() for patient in listed}


def _folded(drawn: list[str], folds: int, fold: int) -> dict[str, str]:
    if len(drawn) < folds:
        raise InputError(
            f"data.split.folds: {folds} folds need at least {folds} patients, the dataset has {len(drawn)}; "
            "take fewer folds, or look whether data.patient_pattern takes the patients apart"
        )
    parts = {fold: "test", (fold + 1) % folds: "validation"}
    return {patient: parts.get(i % folds, "training") for i, patient in enumerate(drawn)}


def _fractioned(drawn: list[str], fractions: tuple[float, float, float]) -> dict[str, str]:
    needed = sum(fraction > 0 for fraction in fractions)
    if len(drawn) < needed:
        raise InputError(
            f"data.split: {needed} parts need at least {needed} patients, the dataset has {len(drawn)}; set the "
            "fraction of a part to 0, add scans, or look whether data.patient_pattern takes the patients apart"
        )
    sizes = [max(1, round(fraction * len(drawn))) if fraction else 0 for fraction in fractions]
    # Rounding leaves at most two too many or too few; the largest part can give and take them.
    while sum(sizes) != len(drawn):
        sizes[sizes.index(max(sizes))] += 1 if sum(sizes) < len(drawn) else -1
    parts = [part for part, size in zip(PARTS, sizes, strict=True) for _ in range(size)]
    return dict(zip(drawn, parts, strict=True))


def file_hashes(case: Case) -> tuple[str, str]:
    """Return the hashes of a case's files, its images' and its mask's, as in `CaseSummary.files`.

    Raises:
        InputError: A file cannot be read.
    """
    images = [file for image in case.images for file in imgmed.files_of(image)]
    return content_hash(images), content_hash(imgmed.files_of(case.label))


def content_hash(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of files' bytes, one after another.

    Raises:
        InputError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None
    return digest.hexdigest()
