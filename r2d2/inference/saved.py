"""A saved model: the folder that MLflow keeps for one, with the network and all that is needed to use it."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import yaml

from r2d2 import config
from r2d2.data.prepare import Prepared
from r2d2.errors import InputError
from r2d2.files import check_zip
from r2d2.inference import guard

VALUES = (".__keras_tensor__", ".__tuple__", ".__slice__", ".__ellipsis__", ".__numpy__", ".__tensor__", ".__bytes__")
"""What Keras writes, in the place of a class, for values that JSON has no words for."""
SWELLING, SMALL_BYTES = 4, 16 << 20
"""Keras stores weights uncompressed: what unpacks to so many times its size, and is not small then, is a bomb."""


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
        ranges: What the scans that it was trained on were like, `guard.ranges`; None of models that were saved before
            that was kept.
    """

    model: keras.Model
    experiment: config.Experiment
    labels: dict[int, str]
    channels: tuple[str, ...]
    split: dict[str, list[str]]
    contents: dict[str, str]
    run_id: str | None
    ranges: dict[str, Any] | None = None


def metadata(experiment: config.Experiment, prepared: Prepared, split: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What a saved model carries beside the network, as `load` reads it back."""
    known = {
        "experiment": experiment.to_yaml(),
        "labels": {str(value): name for value, name in prepared.labels.items()},
        "channels": list(prepared.channels),
        "split": {part: list(names) for part, names in split.items()},
        "contents": {case.name: case.content for case in prepared.cases},
        "ranges": guard.ranges(prepared, split["training"], experiment.preprocess.plane),
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
    model = read_network(path)
    try:
        return SavedModel(
            model,
            config.parse(known["experiment"], source=f"{folder}/MLmodel"),
            {int(value): name for value, name in known["labels"].items()},
            tuple(known["channels"]),
            known["split"],
            known["contents"],
            description.get("run_id"),
            known.get("ranges"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder}/MLmodel: its metadata.r2d2 is damaged ({type(error).__name__}: {error})") from None


def read_network(path: Path) -> keras.Model:
    """The network in a `.keras` file, of Keras' own layers alone.

    Raises:
        InputError: There is none, it is damaged or a bomb, needs code to be trusted, or has no layer `logits`.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; a model's folder holds MLmodel and data/model.keras")
    check_zip(path, max(SMALL_BYTES, SWELLING * path.stat().st_size))
    try:
        with zipfile.ZipFile(path) as opened:
            description = json.loads(opened.read("config.json"))
        # Keras would refuse these too: in its safe mode, in other words for each, and not without looking them up.
        strange = next((name for name in _objects(description) if not _is_plain(name)), None)
        if strange:
            raise InputError(f"{path}: needs {strange}, which is code and not a layer of Keras; nothing of it is run")
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
        if "logits" not in [layer.name for layer in network.layers]:
            raise InputError(f"{path}: its network has no layer named `logits`, the scores before the softmax")
        return network
    except InputError:
        raise
    except Exception as error:  # whatever a damaged or a planted file makes Keras, h5py or zipfile raise
        raise InputError(f"{path}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None


def _objects(description: Any) -> Iterator[str]:
    """The dotted names of all that a network's description asks Keras to make."""
    inner = description.values() if isinstance(description, dict) else description
    if isinstance(description, dict) and "class_name" in description:
        module = description.get("module") or description.get("registered_name") or ""
        yield f"{module}.{description['class_name']}"
    for value in inner:
        if isinstance(value, dict | list):
            yield from _objects(value)


def _is_plain(name: str) -> bool:
    """Whether this is a part of Keras that runs no code of the file's."""
    if name in VALUES:
        return True
    return name.startswith("keras.") and not name.endswith((".Lambda", ".TFSMLayer", ".TorchModuleWrapper"))
