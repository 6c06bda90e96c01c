"""Evaluate: a model, or a folder of predictions, against reference masks, patient by patient."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2d2 import config
from r2d2.console import bar
from r2d2.engine.models import resolve
from r2d2.errors import InputError


@dataclass(frozen=True)
class Evaluation:
    """Scores of whole volumes on the scans' own grids.

    Attributes:
        about: One sentence on whose scans these are.
        rows: A row a patient, as `segeval.summary.patient_rows` gives it.
        means: Its columns' means over the patients that have them.
    """

    about: str
    rows: list[dict[str, Any]]
    means: dict[str, float]


def evaluate(model: str, data: Path | None = None) -> Evaluation:
    """Predict annotated scans and score them.

    Args:
        model: See `engine.models.resolve`.
        data: A folder of annotated scans, all of which are taken; absent, the test patients of the model's own run,
            which it neither trained nor was chosen on.

    Raises:
        InputError: No such model or data, or files that cannot be scored.
    """
    saved, predictor = load_predictor(model)
    from r2d2 import imgmed, segeval
    from r2d2.data.cases import content_hash, find_cases
    from r2d2.segeval.summary import means, patient_rows

    if data is None:
        cases = [case for case in find_cases(saved.experiment.data).cases if case.name in saved.split["test"]]
        about = f"{len(cases)} test patients of the model's own data, which it was neither trained nor chosen on"
        if not cases:
            raise InputError(f"{saved.experiment.data.path}: none of the model's test patients; name a folder of scans")
    else:
        cases = list(find_cases(config.Data(path=data, labels=saved.labels)).cases)
        seen = {saved.contents[name] for part in ("training", "validation") for name in saved.split[part]}
        known = [case.name for case in cases if content_hash(case.images) in seen]
        about = (
            f"{len(known)} of these {len(cases)} scans trained or chose the model, so this is no test: "
            + ", ".join(known)
            if known
            else f"{len(cases)} scans of {data}, none of which trained or chose the model"
        )

    confusions = []
    with bar("Evaluating", len(cases)) as advance:
        for case in cases:
            scan, reference = imgmed.read_volume(case.images[0]), imgmed.read_labels(_label(case))
            if scan.data.shape[:3] != reference.data.shape:
                raise InputError(_shapes(case.name, scan.data.shape[:3], reference.data.shape))
            prediction = predictor.volume(scan)
            confusions.append(segeval.confusion_matrix(reference.data, prediction.data, len(saved.labels)))
            advance(case.name)
    rows = patient_rows(_stack(confusions), [case.name for case in cases], saved.labels)
    return Evaluation(about, rows, means(rows))


def compare_folders(reference: Path, prediction: Path, labels: dict[int, str] | None = None) -> Evaluation:
    """Score a folder of predicted masks against a folder of reference masks of the same file names.

    Args:
        reference: Reference masks, .nii or .nii.gz.
        prediction: Predicted masks; more files than in `reference` are passed over.
        labels: The classes' names by value; absent, the values found in the reference masks.

    Raises:
        InputError: A prediction is missing, or its grid or classes differ from the reference's.
    """
    import numpy as np

    from r2d2 import imgmed, segeval
    from r2d2.data.cases import volumes
    from r2d2.segeval.summary import means, patient_rows

    references, predictions = volumes(reference), volumes(prediction)
    if not references:
        raise InputError(f"{reference}: no .nii or .nii.gz files")
    confusions = []
    with bar("Evaluating", len(references)) as advance:
        for name, path in references.items():
            if name not in predictions:
                raise InputError(f"{prediction}: no prediction for {path.name}; every reference needs one")
            left, right = imgmed.read_labels(path), imgmed.read_labels(predictions[name])
            if left.data.shape != right.data.shape:
                raise InputError(_shapes(name, left.data.shape, right.data.shape, "reference", "prediction"))
            if not np.allclose(left.affine, right.affine, atol=1e-3):
                raise InputError(
                    f"case {name}: the grids differ, reference affine {left.affine.tolist()}, "
                    f"prediction affine {right.affine.tolist()}"
                )
            confusions.append(segeval.confusion_matrix(left.data, right.data, len(labels) if labels else 255))
            advance(name)
    if labels is None:
        used = np.flatnonzero(sum(matrix.sum(0) + matrix.sum(1) for matrix in confusions))
        labels = {0: "background"} | {value: str(value) for value in range(1, int(used.max()) + 1)}
        confusions = [matrix[: len(labels), : len(labels)] for matrix in confusions]
    rows = patient_rows(_stack(confusions), list(references), labels)
    return Evaluation(f"{len(rows)} masks of {prediction} against {reference}", rows, means(rows))


def load_predictor(model: str) -> tuple[Any, Any]:
    """The saved model that people call `model`, and a predictor in the fastest precision this machine has."""
    folder = resolve(model)
    from r2d2.inference import Predictor, load
    from r2d2.models.precision import choose, with_precision

    saved = load(folder)
    return saved, Predictor(with_precision(saved.model, choose("auto")), saved.experiment.preprocess)


def _label(case: Any) -> Path:
    if case.label is None:
        raise InputError(f"case {case.name}: it has no reference mask")
    return case.label


def _stack(confusions: list) -> Any:
    import numpy as np

    return np.stack(confusions)


def _shapes(name: str, left: tuple, right: tuple, first: str = "image", second: str = "label") -> str:
    sizes = ["x".join(str(size) for size in shape) for shape in (left, right)]
    return f"case {name}: {first} {sizes[0]}, {second} {sizes[1]}; both must lie on one grid"
