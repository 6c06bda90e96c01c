"""Check cases file by file: what is wrong with them, what they hold."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from r2d2 import config, imgmed
from r2d2.data.cases import Case, Dataset
from r2d2.data.fingerprint import Fingerprint, fingerprint, sample_intensities
from r2d2.data.framing import canonical_masks, frame_of, left_out
from r2d2.data.parallel import spread
from r2d2.errors import InputError

SPACING_FACTOR = 2.0
ONE_SPLIT = "a patient must not be in two splits; remove one, or give both one patient by data.patient_pattern"
VISITS = (
    r"[_-](?:ses-[a-z0-9]+|(?:ses|session|visit|timepoint|tp)[_-]?\d+)(?:[_-].+)?",
    r"(?<=\d)[_-](?:scan|frame|time|t|v|s|m)[_-]?\d+",
    r"[_-](?:pre|post|baseline|bl|follow[_-]?up|fu)[_-]?\d*",
    r"[_-](?:19|20)\d\d[_-]?[01]\d[_-]?[0-3]\d(?:[_-].+)?",
    r"(?<=\d{3})[_-]\d{1,3}",
)
"""What often tells the scans of one patient apart: sub-012_ses-01_T1w, P07_t1, P07_pre, P07_20240131,
BraTS-GLI-00005-001."""
LEFT_OUT = 0.001
"""More than this share of a case's labelled voxels beyond the edges of the images is worth a word."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a case, without a name with all: an `error` keeps them from being used. One line."""

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
        patient_id: The PatientID of a DICOM series; empty if it has none, or is no DICOM.
        left_out: The share of the labelled voxels, 0 to 1, that lie beyond the edges of the images; 0 if no experiment
            says how large these are.
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
    patient_id: str = ""
    left_out: float = 0.0
    intensities: dict[int, list[list[float]]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Check:
    """What `check_cases` found, the summaries of the cases that could be read, in their order, and what all hold."""

    findings: tuple[Finding, ...]
    summaries: tuple[CaseSummary, ...]
    fingerprint: Fingerprint | None = field(compare=False)


def check_cases(
    dataset: Dataset,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
    preprocess: config.Preprocess | None = None,
) -> Check:
    """Read every image and mask once, several at a time, and return what is wrong and what they hold.

    Errors are files that cannot be read, a mask on another grid than its scan (shape, or affine by more than 1e-3 in
    an entry), label values outside the classes, NaN or infinity, a channel with one value throughout, another number
    of channels than the dataset's, the same scan under two names and of two patients, one DICOM PatientID under two
    patients' names, a class that no mask has. Warnings are a mask with background alone, the same scan twice of one
    patient, one PatientID in all cases (an anonymizer's), a spacing that is more than twice or less than half of the
    median one, names that look like several scans of one patient which `data.patient_pattern` takes apart, labelled
    voxels beyond the edges of the images, and files among the scans and masks of no format that is read.

    Args:
        dataset: From `find_cases`.
        workers: How many processes, by default one per CPU that this process may use; 1 works in this process.
        progress: Called once per finished case.
        preprocess: The experiment's section, if there is one, which says how large the images are.
    """
    inspect = partial(_inspect_and_drop, labels=tuple(dataset.labels), channels=dataset.channels, preprocess=preprocess)
    found: dict[str, Inspected] = {}
    for name, inspected in spread(inspect, dataset.cases, workers):
        found[name] = inspected
        if progress:
            progress()
    inspections = [found[case.name] for case in dataset.cases]
    findings = [finding for inspected in inspections for finding in inspected.findings]
    summaries = tuple(inspected.summary for inspected in inspections if inspected.summary)
    findings += [*check_together(dataset, summaries), *_visits_taken_apart(dataset.cases)]
    if dataset.passed_over:
        some = ", ".join(str(path) for path in dataset.passed_over[:3]) + (", ..." if dataset.passed_over[3:] else "")
        message = f"{len(dataset.passed_over)} files are of no format that is read, and were passed over: {some}"
        findings.append(Finding("", "warning", message))
    return Check(tuple(findings), summaries, fingerprint(summaries, dataset.labels, dataset.channels))


def check_together(dataset: Dataset, summaries: Sequence[CaseSummary]) -> list[Finding]:
    """Return what is wrong with the cases side by side, none of which needs to be wrong alone.

    Args:
        dataset: The cases.
        summaries: Of those that could be read.
    """
    patients = {case.name: case.patient for case in dataset.cases}
    findings = [*_same_scans(summaries, patients), *_same_ids(summaries, patients), *_odd_spacings(summaries)]
    if len(summaries) == len(patients):  # a class that is missing may be in a case that could not be read
        findings += _absent_classes(summaries, dataset.labels)
    return findings + [
        Finding(
            summary.case,
            "warning",
            f"case {summary.case}: {summary.left_out:.1%} of its labelled voxels lie beyond the edges of the images "
            "(preprocess.image_size, pixel_mm, crop)",
        )
        for summary in summaries
        if summary.left_out > LEFT_OUT
    ]


def _same_scans(summaries: Iterable[CaseSummary], patients: Mapping[str, str]) -> Iterable[Finding]:
    """Yield cases that hold the same scan: an error if they are two patients' by their names."""
    first: dict[str, str] = {}
    for summary in summaries:
        other = first.setdefault(summary.content, summary.case)
        same = f"case {summary.case}: the same scan as {other}"
        if other == summary.case:
            continue
        if patients[other] == patients[summary.case]:
            yield Finding(summary.case, "warning", f"{same}; one of the two adds nothing")
        else:
            yield Finding(summary.case, "error", f"{same}, under another patient's name; {ONE_SPLIT}")


def _same_ids(summaries: Sequence[CaseSummary], patients: Mapping[str, str]) -> Iterable[Finding]:
    """Yield cases whose DICOM says that they are of one patient, where their names say of two."""
    ids = {summary.patient_id for summary in summaries}
    if len(summaries) > 2 and len(ids) == 1 and ids != {""} and len(set(patients.values())) > 1:
        told = f"all cases have the PatientID {ids.pop()!r}, as an anonymizer leaves it; so nothing tells whether two "
        yield Finding("", "warning", f"{told}of them are of one patient, who must not be in two splits")
        return
    first: dict[str, str] = {}
    for summary in summaries:
        other = first.setdefault(summary.patient_id, summary.case) if summary.patient_id else summary.case
        if patients[other] != patients[summary.case]:
            same = f"case {summary.case}: the PatientID {summary.patient_id!r} of {other}"
            yield Finding(summary.case, "error", f"{same}, under another patient's name; {ONE_SPLIT}")


def _absent_classes(summaries: Sequence[CaseSummary], labels: Mapping[int, str]) -> Iterable[Finding]:
    absent = [value for value in labels if value and not any(summary.voxels[value] for summary in summaries)]
    if len(absent) == len(labels) - 1:
        yield Finding("", "error", "every mask is empty, background alone; there is nothing to learn")
    else:
        for value in absent:
            message = (
                f"class {value} ({labels[value]}) is in no mask, so it cannot be learnt; leave it out of data.labels"
            )
            yield Finding("", "error", message)


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


def _visits_taken_apart(cases: Sequence[Case]) -> Iterable[Finding]:
    for visit in VISITS:
        pattern = "(?i)" + config.PATIENT.replace("(.+?)", f"(.+?)(?:{visit})?")
        first: dict[str, Case] = {}
        for case in cases:
            match = re.search(pattern, case.name)
            other = first.setdefault(match[1], case) if match else case
            if other.patient != case.patient:
                message = (
                    f"case {case.name}: by its name of the same patient as {other.name}, by data.patient_pattern not; "
                    f"if so, patient_pattern: '{pattern}'"
                )
                yield Finding(case.name, "warning", message)
                return


@dataclass(frozen=True)
class Inspected:
    """What `inspect_case` found, and the volumes themselves if the files could be read."""

    findings: list[Finding]
    summary: CaseSummary | None = None
    image: imgmed.Volume | None = None
    mask: imgmed.Volume | None = None

    @property
    def errors(self) -> list[str]:
        """The messages of what keeps the case from being used."""
        return [finding.message for finding in self.findings if finding.severity == "error"]


def _inspect_and_drop(
    case: Case, labels: tuple[int, ...], channels: tuple[str, ...], preprocess: config.Preprocess | None
) -> tuple[str, Inspected]:
    """Inspect a case and leave its volumes behind, which would be slow to hand from one process to another."""
    found = inspect_case(case, labels, channels)
    if preprocess and found.image and found.mask and found.summary and not found.errors:
        by = frame_of(imgmed.to_canonical(found.image), preprocess)
        masks = canonical_masks(found.image, found.mask, preprocess)
        found = replace(found, summary=replace(found.summary, left_out=left_out(masks, by)))
    return case.name, replace(found, image=None, mask=None)


def inspect_case(case: Case, labels: tuple[int, ...], channels: tuple[str, ...]) -> Inspected:
    """Read a case's files and return what is wrong with them, what they hold, and the volumes.

    Args:
        case: The case.
        labels: The classes' values.
        channels: The dataset's channels.
    """
    try:
        image, mask = case.read()
        files = file_hashes(case)  # after reading, which refuses a pipe that hashing would wait for
    except InputError as error:
        return Inspected([Finding(case.name, "error", str(error))])

    messages: list[str] = []
    shape = image.data.shape[:3]
    stack = image.data if image.data.ndim == 4 else image.data[..., np.newaxis]
    if stack.shape[-1] != len(channels):
        messages.append(
            f"{case.images[0]}: {stack.shape[-1]} channels, the dataset has {len(channels)} ({', '.join(channels)})"
        )
    for c in range(stack.shape[-1]):
        messages += _intensity_errors(stack[..., c], f"{case.images[0]}: channel {c}")
    messages += _place_errors(image, mask, case)
    voxels = {label: int(np.count_nonzero(mask.data == label)) for label in labels}
    if sum(voxels.values()) < mask.data.size:
        classes = ", ".join(str(known) for known in labels)
        for label, count in zip(*np.unique(mask.data, return_counts=True), strict=True):
            if label not in voxels:
                messages.append(f"{case.label}: label {label} ({count} voxels) is not among the classes {classes}")
    findings = [Finding(case.name, "error", message) for message in messages]
    if not mask.data.any():
        findings.append(Finding(case.name, "warning", f"{case.label}: an empty mask, background alone"))
    canonical = imgmed.to_canonical(image)
    summary = CaseSummary(
        case=case.name,
        shape=shape,
        spacing_mm=image.spacing_mm,
        canonical_shape=canonical.data.shape[:3],
        canonical_spacing_mm=canonical.spacing_mm,
        channels=stack.shape[-1],
        voxels=voxels,
        files=files,
        content=_content(canonical.data),
        patient_id=imgmed.patient_id(case.images[0]) if case.images[0].is_dir() else "",
    )
    if mask.data.shape == shape:
        summary = replace(summary, intensities=sample_intensities(stack, mask.data, labels))
    return Inspected(findings, summary, image, mask)


def _content(canonical: np.ndarray) -> str:
    # The first axis is the fastest in the file and mostly in memory, so its transpose needs no copy.
    voxels = np.ascontiguousarray((canonical if canonical.ndim == 3 else canonical[..., 0]).T)
    return hashlib.sha256(voxels.data).hexdigest()


def _place_errors(image: imgmed.Volume, mask: imgmed.Volume, case: Case) -> Iterable[str]:
    """Yield in what a mask does not lie on the image's grid."""
    left, right = image.data.shape[:3], mask.data.shape
    if left != right:
        sizes = ["x".join(str(n) for n in shape) for shape in (left, right)]
        yield f"{case.label}: image {sizes[0]}, label {sizes[1]}, case {case.name}: the shapes must be the same"
    difference = np.abs(image.affine - mask.affine).max()
    if difference > imgmed.AFFINE_TOLERANCE:
        yield (
            f"{case.label}: the affine of the label differs from the image's by {difference:.3g}, more than "
            f"{imgmed.AFFINE_TOLERANCE:g}, case {case.name}: they must lie in the same place"
        )


def _intensity_errors(channel: np.ndarray, where: str) -> Iterable[str]:
    unusable = channel.size - np.count_nonzero(np.isfinite(channel))
    if unusable:
        yield f"{where} has {unusable} voxels of NaN or infinity; intensities must be finite"
    elif channel.min() == channel.max():
        yield f"{where} is {channel.min():g} throughout; an image must not be constant"


def file_hashes(case: Case) -> tuple[str, str]:
    """Return the hashes of a case's files, its images' and its mask's, as in `CaseSummary.files`.

    Raises:
        InputError: A file cannot be read.
    """
    images = [file for image in case.images for file in imgmed.files_of(image)]
    return content_hash(images), content_hash([case.label] if case.structures else imgmed.files_of(case.label))


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
