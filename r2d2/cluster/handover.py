"""The end of a run: rank 0 writes the model with its card, and down what is to be recorded of its scores."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2.cluster import validations
from r2d2.imgmed import frame
from r2d2.segeval import definitions, plain
from r2d2.segeval.overlay import draw, upright
from r2d2.tracking import card as cards
from r2d2.tracking import package
from r2d2.tracking.outbox import Outbox

if TYPE_CHECKING:
    from r2d2 import config
    from r2d2.data.prepare import Prepared
    from r2d2.inference import Predictor
    from r2d2.segeval import Tally

MODEL = "model"
"""The folder in an attempt's folder that holds the model until it is whole; in the run's its name is longer."""


def write_model(
    folder: Path,
    experiment: "config.Experiment",
    prepared: "Prepared",
    split: Mapping[str, Sequence[str]],
    parents: list[dict[str, Any]],
    network: Any,
    tally: "Tally",
    origin: Mapping[str, Any],
) -> dict[str, str]:
    """Write a model's package.

    Args:
        folder: Where.
        experiment: What it was made from.
        prepared: Its data.
        split: The cases in each part.
        parents: The models that its weights come from, of `engine.models.parents`.
        network: The Keras model, float32.
        tally: Its scores on the test patients.
        origin: From `card.lineage`.

    Returns:
        The tags of its version, which say what its card says first.
    """
    from r2d2.inference.saved import metadata

    known = metadata(experiment, prepared, split)
    known["r2d2"]["parents"] = parents
    card = cards.make(
        experiment, known["r2d2"], tally, prepared.fingerprint, prepared.licence, network.count_params(), origin
    )
    package.write(folder, network, known, origin["run"], experiment.to_yaml(), card, plain(tally.rows))
    return cards.tags(card)


def write_scores(
    outbox: Outbox, tally: "Tally", means: Mapping[str, float], best_epoch: int, plane: str, attempt: Path
) -> None:
    """Write down the test patients' scores, what each number is, and those of the attempt's validations."""
    outbox.log({f"test/{key}": value for key, value in means.items()}, step=best_epoch, once="test")
    outbox.attach_text("evaluation/test.json", json.dumps(plain(tally.rows), indent=1))
    outbox.attach_text("evaluation/definitions.json", json.dumps(definitions(means, plane=plane), indent=1))
    outbox.attach_text("evaluation/validation.json", json.dumps(validations.kept(attempt), indent=1))


@dataclass(frozen=True)
class Slice:
    """The slice of a case with most to find: (rows, columns), as the network sees it.

    Attributes:
        case: The case's name.
        patient: Whose it is.
        number: Which slice of the case.
        dice: Of the case's whole volume; None where there is no foreground.
        scan: The first channel, float32.
        reference, prediction: Label masks, uint8.
        aspect: Height of a pixel over its width.
    """

    case: str
    patient: str
    number: int
    dice: float | None
    scan: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    aspect: float


def worst(prepared: "Prepared", predictor: "Predictor", tally: "Tally", count: int) -> list[Slice]:
    """Of each of the worst cases of a tally, the worst first, the slice with most to find."""
    found = []
    rows = sorted(plain(tally.rows), key=lambda row: row["dice"] if row["dice"] is not None else 1.0)
    for row in rows[:count]:
        (case,) = prepared.select([row["case"]])
        number = int(np.argmax((prepared.reference(case) > 0).sum(axis=(1, 2))))
        image, mask = prepared.images[case.first + number], prepared.masks[case.first + number]
        prediction = predictor.labels(image[None], frame(mask.shape, mask.shape))[0]
        width_mm, height_mm = case.pixel_mm  # upright exchanges rows and columns
        scan = upright(image[..., 0].astype(np.float32))
        masks = upright(mask), upright(prediction)
        found.append(Slice(case.name, case.patient, number, row["dice"], scan, *masks, height_mm / width_mm))
    return found


def draw_worst(outbox: Outbox, slices: Sequence[Slice], labels: Mapping[int, str]) -> None:
    """Draw slices as pictures that explain themselves."""
    with tempfile.TemporaryDirectory() as folder:
        for one in slices:
            dice = "none (no foreground)" if one.dice is None else f"{one.dice:.3f}"
            title = f"{one.case}, slice {one.number}, Dice of the volume {dice}"
            masks = {"reference": one.reference, "prediction": one.prediction}
            figure = draw(one.scan, masks, labels, title, aspect=one.aspect)
            figure.savefig(file := Path(folder) / f"{one.case}.png")
            outbox.attach_file(file, "overlays")
