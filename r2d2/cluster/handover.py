"""The end of a run: rank 0 writes the model with its card, and down what is to be recorded of its scores."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
    outbox: Outbox, tally: "Tally", means: Mapping[str, float], best_epoch: int, plane: str, validations: Path
) -> None:
    """Write down the test patients' scores, what each number is, and every validation's."""
    outbox.log({f"test/{key}": value for key, value in means.items()}, step=best_epoch, once="test")
    outbox.attach_text("evaluation/test.json", json.dumps(plain(tally.rows), indent=1))
    outbox.attach_text("evaluation/definitions.json", json.dumps(definitions(means, plane=plane), indent=1))
    every = {int(file.stem.removeprefix("epoch-")): file for file in sorted(validations.glob("epoch-*.json"))}
    told = {epoch: json.loads(file.read_text(encoding="utf-8")) for epoch, file in every.items()}
    outbox.attach_text("evaluation/validation.json", json.dumps(told, indent=1))


def draw_worst(outbox: Outbox, prepared: "Prepared", predictor: "Predictor", tally: "Tally", count: int) -> None:
    """Draw the slice with most to find of each of the worst test cases."""
    worst = sorted(plain(tally.rows), key=lambda row: row["dice"] if row["dice"] is not None else 1.0)
    with tempfile.TemporaryDirectory() as folder:
        for row in worst[:count]:
            (case,) = prepared.select([row["case"]])
            number = case.first + int(np.argmax((prepared.reference(case) > 0).sum(axis=(1, 2))))
            image, mask = prepared.images[number], prepared.masks[number]
            prediction = predictor.labels(image[None], frame(mask.shape, mask.shape))[0]
            masks = {"reference": upright(mask), "prediction": upright(prediction)}
            dice = "none (no foreground)" if row["dice"] is None else f"{row['dice']:.3f}"
            title = f"{case.name}, slice {number - case.first}, Dice of the volume {dice}"
            width_mm, height_mm = case.pixel_mm  # upright exchanges rows and columns
            scan = upright(image[..., 0].astype(np.float32))
            figure = draw(scan, masks, prepared.labels, title, aspect=height_mm / width_mm)
            figure.savefig(file := Path(folder) / f"{case.name}.png")
            outbox.attach_file(file, "overlays")
