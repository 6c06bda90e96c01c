"""Evaluate: a model, or a folder of predictions, against reference masks, patient by patient."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2d2 import config
from r2d2.console import bar
from r2d2.engine.doctor import require
from r2d2.engine.models import resolve
from r2d2.engine.prepare import here, storage
from r2d2.errors import InputError


@dataclass(frozen=True)
class Evaluation:
    """Scores of whole volumes on the scans' own grids.

    Attributes:
        about: One sentence on whose scans these are.
        rows: A row a case, as `segeval.summary.case_rows` gives it.
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
        InputError: No such model or data, classes or channels that are not the model's, or files that cannot be scored.
    """
    saved, predictor = load_predictor(model)
    from r2d2 import segeval
    from r2d2.data.check import inspect_case
    from r2d2.segeval.summary import case_rows, means

    dataset = _dataset_for(saved, data)
    cases = [case for case in dataset.cases if data or case.name in saved.split["test"]]
    if not cases:
        raise InputError(f"{saved.experiment.data.path}: none of the model's test patients; name a folder of scans")
    seen = {saved.contents[name]: name for part in ("training", "validation") for name in saved.split[part]}
    confusions, known = [], []
    with bar("Evaluating", len(cases)) as advance:
        for case in cases:
            inspected = inspect_case(case, tuple(saved.labels), dataset.channels)
            if inspected.errors or inspected.summary is None or inspected.image is None or inspected.mask is None:
                raise InputError(inspected.errors[0])
            if data is None and inspected.summary.content != saved.contents[case.name]:
                raise InputError(f"{case.images[0]}: not the scan that it was when the model was trained")
            if inspected.summary.content in seen:
                known.append(case.name)
            prediction = predictor.volume(inspected.image, case.images[0])
            confusions.append(segeval.confusion_matrix(inspected.mask.data, prediction.data, len(saved.labels)))
            advance(case.name)
    if known:
        names = ", ".join(known)
        about = f"{len(known)} of these {len(cases)} scans trained or chose the model, so this is no test: {names}"
    elif data is None:
        about = f"{len(cases)} test scans of the model's own data, which it was neither trained nor chosen on"
    else:
        about = f"{len(cases)} scans of {data}, none of which trained or chose the model"
    rows = case_rows(_stack(confusions), [(case.name, case.patient) for case in cases], saved.labels)
    return Evaluation(about, rows, means(rows))


def compare_folders(reference: Path, prediction: Path) -> Evaluation:
    """Score a folder of predicted masks against a folder of reference masks of the same file names.

    Args:
        reference: Reference masks, of any format that `imgmed.read_labels` takes.
        prediction: Predicted masks; more files than in `reference` are passed over.

    Returns:
        The scores, the classes being 1 to the largest value in any mask.

    Raises:
        InputError: A prediction is missing, or its grid or classes differ from the reference's.
    """
    import numpy as np

    from r2d2 import imgmed, segeval
    from r2d2.data.layouts import volumes
    from r2d2.segeval.summary import case_rows, means

    references, predictions = volumes(reference), volumes(prediction)
    if not references:
        raise InputError(f"{reference}: no volumes in it (.nii, .nii.gz, .mha, .nrrd, ...)")
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
            confusions.append(segeval.confusion_matrix(left.data, right.data, 255))
            advance(name)
    used = np.flatnonzero(sum(matrix.sum(0) + matrix.sum(1) for matrix in confusions))
    labels = {0: "background"} | {value: str(value) for value in range(1, int(used.max()) + 1)}
    confusions = [matrix[: len(labels), : len(labels)] for matrix in confusions]
    rows = case_rows(_stack(confusions), [(name, name) for name in references], labels)
    return Evaluation(f"{len(rows)} masks of {prediction} against {reference}", rows, means(rows))


def load_predictor(model: str) -> tuple[Any, Any]:
    """The saved model that people call `model`, and a predictor in the precision that its experiment asks for."""
    require("tensorflow")
    folder = resolve(model)
    from r2d2.inference import Predictor, load
    from r2d2.models.precision import choose, with_precision

    saved = load(folder)
    network = with_precision(saved.model, choose(saved.experiment.training.precision))
    return saved, Predictor(network, saved.experiment.preprocess)


def _dataset_for(saved: Any, folder: Path | None) -> Any:
    """The model's own data, or a folder's, if its classes and channels are the model's."""
    from r2d2.data.cases import find_cases

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


def _stack(confusions: list) -> Any:
    import numpy as np

    return np.stack(confusions)


def _shapes(name: str, left: tuple, right: tuple, first: str = "image", second: str = "label") -> str:
    sizes = ["x".join(str(size) for size in shape) for shape in (left, right)]
    return f"case {name}: {first} {sizes[0]}, {second} {sizes[1]}; both must lie on one grid"
