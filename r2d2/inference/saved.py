"""A saved model: the folder that MLflow keeps for one, with the network and all that is needed to use it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import yaml

from r2d2 import config
from r2d2.data.prepare import Prepared
from r2d2.errors import InputError


@dataclass(frozen=True)
class SavedModel:
    """A network with what it was trained on.

    Attributes:
        model: The network, float32.
        experiment: What it was made from.
        labels: The classes' names by value.
        channels: The names of a scan's channels that it takes.
        split: The cases in each part.
        contents: A hash of every case's scan, `CaseSummary.content`.
        run_id: The run that made it.
    """

    model: keras.Model
    experiment: config.Experiment
    labels: dict[int, str]
    channels: tuple[str, ...]
    split: dict[str, list[str]]
    contents: dict[str, str]
    run_id: str | None


def metadata(experiment: config.Experiment, prepared: Prepared, split: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What a saved model carries beside the network, as `load` reads it back."""
    known = {
        "experiment": experiment.to_yaml(),
        "labels": {str(value): name for value, name in prepared.labels.items()},
        "channels": list(prepared.channels),
        "split": {part: list(names) for part, names in split.items()},
        "contents": {case.name: case.content for case in prepared.cases},
    }
    return {"r2d2": known}


def load(folder: Path) -> SavedModel:
    """Load a saved model from its folder (`MLmodel`, `data/model.keras`); nothing in it is ever unpickled.

    Raises:
        InputError: The folder is not a model that R2D2 saved, or its network needs code to be trusted.
    """
    try:
        description = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        known = description["metadata"]["r2d2"]
    except FileNotFoundError:
        raise InputError(f"{folder}: no model here (a model's folder holds MLmodel and data/model.keras)") from None
    except (KeyError, TypeError, yaml.YAMLError):
        raise InputError(f"{folder}: not a model that R2D2 saved; its MLmodel has no metadata.r2d2") from None
    path = folder / "data" / "model.keras"
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    return SavedModel(
        model,
        config.parse(known["experiment"], source=f"{folder}/MLmodel"),
        {int(value): name for value, name in known["labels"].items()},
        tuple(known["channels"]),
        known["split"],
        known["contents"],
        description.get("run_id"),
    )
