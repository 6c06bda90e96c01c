"""Evaluate: a model, or a folder of predictions, against reference masks, patient by patient."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2 import config
from r2d2.console import bar
from r2d2.engine.doctor import require
from r2d2.engine.models import resolve
from r2d2.engine.prepare import storage
from r2d2.errors import InputError
from r2d2.files import whole_file

if TYPE_CHECKING:
    from r2d2.segeval import CaseScores, Estimate, Tally

WORST = 4
"""How many cases the report has pictures of."""
MARGIN = 10
"""Pixels around the masks in a picture without a scan."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of whole volumes on the scans' own grids; see `segeval.definitions` for the names of the numbers.

    Attributes:
        about: One sentence on whose scans these are.
        labels: The classes' names by value.
        rows: A dictionary a case; None where there is no number, "inf" for a distance to what was missed.
        means: Of every number over the patients that have it; pooled and slices' scores, too.
        estimates: Every number of whole volumes with its interval over the patients.
        document: All of it and more, as it is in `scores.json`.
        report: The folder with `report.html`, `scores.json` and `scores.csv`.
    """

    about: str
    labels: dict[int, str]
    rows: list[dict[str, Any]]
    means: dict[str, float]
    estimates: "dict[str, Estimate]"
    document: dict[str, Any]
    report: Path


def evaluate(
    model: str, data: Path | None = None, output: Path | None = None, tolerance_mm: float | None = None
) -> Evaluation:
    """Predict annotated scans and score them.

    Args:
        model: See `engine.models.resolve`.
        data: A folder of annotated scans, all of which are taken; absent, the test patients of the model's own run,
            which it neither trained nor was chosen on.
        output: The folder of the report; absent, one of R2D2_HOME/evaluations.
        tolerance_mm: Of the surface Dice; absent, SegEval's.

    Raises:
        InputError: No such model or data, classes or channels that are not the model's, or files that cannot be scored.
    """
    place = output or _place(model, data.resolve() if data else "test")
    _check_place(place)
    saved, predictor = load_predictor(model)
    from r2d2 import imgmed, segeval

    dataset = dataset_for(saved, data)
    cases = [case for case in dataset.cases if data or case.name in saved.split["test"]]
    if not cases:
        raise InputError(f"{saved.experiment.data.path}: none of the model's test patients; name a folder of scans")
    seen = {saved.contents[name]: name for part in ("training", "validation") for name in saved.split[part]}
    known, plane = [], saved.experiment.preprocess.plane

    def read(case: Any) -> "Pair":
        inspected = read_case(case, saved, dataset)
        if data is None and inspected.summary.content != saved.contents[case.name]:
            raise InputError(f"{case.images[0]}: not the scan that it was when the model was trained")
        if inspected.summary.content in seen and case.name not in known:
            known.append(case.name)
        prediction = predictor.volume(inspected.image, case.images[0])
        return Pair(inspected.mask, prediction, imgmed.to_canonical(inspected.image), plane)

    def scored() -> "Iterator[CaseScores]":
        for case in cases:
            yield read(case).scores(case.name, case.patient, saved.labels, tolerance)

    tolerance = segeval.TOLERANCE_MM if tolerance_mm is None else tolerance_mm
    tally = _tally(saved.labels, scored(), len(cases))
    if known:
        names = ", ".join(known)
        about = f"{len(known)} of these {len(cases)} scans trained or chose the model, so this is no test: {names}"
    elif data is None:
        about = f"{len(cases)} test scans of the model's own data, which it was neither trained nor chosen on"
    else:
        about = f"{len(cases)} scans of {data}, none of which trained or chose the model"
    of = {case.name: case for case in cases}
    return _reported(tally, about, place, lambda case: read(of[case]), tolerance, plane)


def compare_folders(
    reference: Path,
    prediction: Path,
    output: Path | None = None,
    tolerance_mm: float | None = None,
    patient_pattern: str = "^.*$",
) -> Evaluation:
    """Score a folder of predicted masks against a folder of reference masks of the same file names.

    Args:
        reference: Reference masks, of any format that `imgmed.read_labels` takes.
        prediction: Predicted masks.
        output: The folder of the report; absent, one of R2D2_HOME/evaluations.
        tolerance_mm: Of the surface Dice; absent, SegEval's.
        patient_pattern: A regular expression that takes the patient from a file's name, by its group or as a whole.

    Returns:
        The scores, the classes being those of a `dataset.json` in the folder of references or beside it, else 1 to the
        largest value in any mask.

    Raises:
        InputError: A prediction or a reference is missing, its grid or classes differ, or nothing can be compared.
    """
    from r2d2 import segeval
    from r2d2.data.cases import patient_reader
    from r2d2.data.layouts import class_names, volumes
    from r2d2.data.parallel import spread

    references, predictions = volumes(reference), volumes(prediction)
    if not references:
        raise InputError(f"{reference}: no volumes in it (.nii, .nii.gz, .mha, .nrrd, ...)")
    for name, path in references.items():
        if name not in predictions:
            raise InputError(f"{prediction}: no prediction for {path.name}; every reference needs one")
    for name, path in predictions.items():
        if name not in references:
            raise InputError(f"{reference}: no reference for {path.name}; every prediction needs one")
    pairs = [(name, path, predictions[name]) for name, path in references.items()]
    patients = patient_reader(patient_pattern)
    for name in references:
        patients(name)
    place = output or _place(prediction.resolve(), reference.resolve())
    _check_place(place)
    labels = class_names(reference)
    if labels is None:
        with bar("Looking for classes", len(pairs)) as advance:
            largest = 0
            for found in spread(_largest, pairs):
                largest = max(largest, found)
                advance()
        labels = {value: str(value) if value else "background" for value in range(largest + 1)}
    tolerance = segeval.TOLERANCE_MM if tolerance_mm is None else tolerance_mm
    score = partial(_score_pair, labels=labels, patient_of=patients, tolerance_mm=tolerance)
    tally = _tally(labels, spread(score, pairs), len(pairs))
    about = f"{len(pairs)} mask{'s' if len(pairs) > 1 else ''} of {prediction} against {reference}"
    return _reported(tally, about, place, lambda case: _read_pair(case, references[case], predictions[case]), tolerance)


@dataclass(frozen=True)
class Pair:
    """A reference and a prediction on one grid, perhaps the scan (canonical) that they are of."""

    reference: Any
    prediction: Any
    scan: Any = None
    plane: str = "axial"

    def scores(self, case: str, patient: str, labels: dict[int, str], tolerance_mm: float) -> "CaseScores":
        """What SegEval says of them; slices are those of the plane."""
        from r2d2 import imgmed, segeval

        left, right = imgmed.to_canonical(self.reference), imgmed.to_canonical(self.prediction)
        try:
            return segeval.score_case(
                case, patient, left.data, right.data, labels, left.spacing_mm, imgmed.PLANES[self.plane], tolerance_mm
            )
        except InputError as error:
            raise InputError(f"case {case}: {error}") from None

    def picture(self, case: str, labels: dict[int, str]) -> Any:
        """The slice with most to find, or most found where there is nothing to find."""
        import numpy as np

        from r2d2 import imgmed
        from r2d2.segeval.overlay import Panel, mosaic, upright
        from r2d2.segeval.surface import bounding_box

        left, right = (imgmed.to_canonical(mask) for mask in (self.reference, self.prediction))
        masks = [imgmed.to_slices(mask.data, self.plane) for mask in (left, right)]
        area = next((mask for mask in masks if mask.any()), masks[0])
        number = int(np.argmax((area > 0).sum(axis=(1, 2))))
        shown = [upright(mask[number]) for mask in masks]
        if self.scan is not None:
            data = self.scan.data if self.scan.data.ndim == 3 else self.scan.data[..., 0]
            image = upright(imgmed.to_slices(data, self.plane)[number])
        else:  # nothing to see around the masks
            box = bounding_box(*(mask > 0 for mask in shown)) or (slice(0, None),) * 2
            rows, columns = (slice(max(0, side.start - MARGIN), side.stop and side.stop + MARGIN) for side in box)
            shown = [mask[rows, columns] for mask in shown]
            image = np.zeros(shown[0].shape)
        width_mm, height_mm = np.delete(left.spacing_mm, imgmed.PLANES[self.plane])
        panels = [Panel(image, "reference", shown[0]), Panel(image, "prediction", shown[1])]
        row = [Panel(image, "scan"), *panels] if self.scan is not None else panels
        return mosaic([row], labels, f"{case}, {self.plane} slice {number}", [height_mm / width_mm])


def _read_pair(name: str, reference: Path, prediction: Path) -> Pair:
    import numpy as np

    from r2d2 import imgmed

    left, right = imgmed.read_labels(reference), imgmed.read_labels(prediction)
    if left.data.shape != right.data.shape:
        raise InputError(_shapes(name, left.data.shape, right.data.shape, "reference", "prediction"))
    # As far apart as a hundredth of a voxel, at any corner: that is more than files round.
    ends = np.array([[0, size] for size in left.data.shape])
    corners = np.stack([*np.meshgrid(*ends, indexing="ij"), np.ones((2, 2, 2))]).reshape(4, -1)
    apart = np.abs((left.affine - right.affine) @ corners).max()
    if apart > 0.01 * min(*left.spacing_mm, *right.spacing_mm):
        raise InputError(
            f"case {name}: the grids differ, reference affine {left.affine.tolist()}, "
            f"prediction affine {right.affine.tolist()}"
        )
    return Pair(left, right)


def _score_pair(
    task: tuple[str, Path, Path], labels: dict[int, str], patient_of: Callable[[str], str], tolerance_mm: float
) -> "CaseScores":
    return _read_pair(*task).scores(task[0], patient_of(task[0]), labels, tolerance_mm)


def _largest(task: tuple[str, Path, Path]) -> int:
    """The largest label of two masks."""
    pair = _read_pair(*task)
    return int(max(pair.reference.data.max(initial=0), pair.prediction.data.max(initial=0)))


def _tally(labels: dict[int, str], scans: "Iterable[CaseScores]", count: int) -> "Tally":
    from r2d2 import segeval

    tally = segeval.Tally(labels)
    with bar("Evaluating", count) as advance:
        for scan in scans:
            tally.add(scan)
            advance(scan.case)
    return tally


def _reported(
    tally: "Tally",
    about: str,
    folder: Path,
    pair: Callable[[str], Pair],
    tolerance_mm: float,
    plane: str = "axial",
) -> Evaluation:
    """Write the report; the worst cases are read again for their pictures."""
    from r2d2.segeval import plain, report

    rows = plain(tally.rows)
    worst = sorted((row for row in rows if row["dice"] is not None), key=lambda row: row["dice"])[:WORST]
    pictures = {row["case"]: pair(row["case"]).picture(row["case"], tally.labels) for row in worst}
    files = report.files(tally, about, pictures, tolerance_mm, plane)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as written:  # they take their places when all are whole
            for name, text in files.texts.items():
                written.enter_context(whole_file(folder / name)).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); name another with -o") from None
    return Evaluation(about, tally.labels, rows, files.means, files.estimates, files.document, folder)


def _place(what: object, against: object) -> Path:
    """A folder for the report of this evaluation; the same evaluation, done again, replaces it."""
    shown = [
        re.sub(r"[^A-Za-z0-9_.@-]+", "_", Path(str(one)).name if "/" in str(one) else str(one))
        for one in (what, against)
    ]
    number = hashlib.sha256(f"{what}\n{against}".encode()).hexdigest()[:6]
    return config.home() / "evaluations" / f"{'-'.join(shown)}-{number}"


def _check_place(folder: Path) -> None:
    """Raise an InputError if a report could not be written there, before there is one."""
    above = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    taken = [name for name in ("report.html", "scores.json", "scores.csv") if (folder / name).is_dir()]
    if not above.is_dir() or not os.access(above, os.W_OK) or taken:
        raise InputError(f"{folder}: no report can be written there; name another folder with -o")


def load_predictor(model: str) -> tuple[Any, Any]:
    """The saved model that people call `model`, and a predictor in the precision that its experiment asks for."""
    saved, network = load_network(model)
    from r2d2.inference import Predictor

    return saved, Predictor(network, saved.experiment.preprocess)


def load_network(model: str) -> tuple[Any, Any]:
    """The saved model that people call `model`, and its network in the precision that its experiment asks for."""
    require("tensorflow")
    folder = resolve(model)
    from r2d2.inference import load
    from r2d2.inference.memory import take_as_needed
    from r2d2.models.precision import choose, with_precision

    take_as_needed()
    saved = load(folder)
    return saved, with_precision(saved.model, choose(saved.experiment.training.precision))


def read_case(case: Any, saved: Any, dataset: Any) -> Any:
    """A case of a dataset, read and checked, its classes being a saved model's.

    Raises:
        InputError: It cannot be scored.
    """
    from r2d2.data.check import inspect_case

    inspected = inspect_case(case, tuple(saved.labels), dataset.channels)
    if inspected.errors or inspected.summary is None or inspected.image is None or inspected.mask is None:
        raise InputError(inspected.errors[0])
    return inspected


def dataset_for(saved: Any, folder: Path | None) -> Any:
    """The model's own data, or a folder's, if its classes and channels are the model's."""
    from r2d2.data.cases import find_cases
    from r2d2.data.mirror import here

    settings = saved.experiment.data
    if folder is not None:
        told = (folder / "dataset.json").exists()
        labels = None if told else saved.labels
        settings = config.Data(path=folder, labels=labels, structures=settings.structures, remap=settings.remap)
    dataset = find_cases(here(settings, storage(saved.experiment)))
    if dataset.labels != saved.labels:
        raise InputError(
            f"{settings.path}: its classes are {dataset.labels}, the model's {saved.labels}; "
            "give the same things the same numbers and names in dataset.json"
        )
    wanted = saved.experiment.preprocess.channels or range(len(dataset.channels))
    channels = tuple(dataset.channels[number] for number in wanted if number < len(dataset.channels))
    named = not any(name.isdecimal() for name in (*channels, *saved.channels))  # plain folders only number them
    if named and channels != saved.channels:
        raise InputError(
            f"{settings.path}: its channels are {', '.join(channels)}, the model takes {', '.join(saved.channels)}; "
            "give the same channels the same places and names in dataset.json"
        )
    return dataset


def _shapes(name: str, left: tuple, right: tuple, first: str = "image", second: str = "label") -> str:
    sizes = ["x".join(str(size) for size in shape) for shape in (left, right)]
    return f"case {name}: {first} {sizes[0]}, {second} {sizes[1]}; both must lie on one grid"
