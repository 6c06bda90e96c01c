"""What people call a model or its weights, resolved to a folder or file on this machine."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from r2d2 import config
from r2d2.engine.prepare import storage
from r2d2.errors import InputError
from r2d2.files import whole_file


def resolve(model: str) -> Path:
    """The local folder of a model.

    Args:
        model: `name@alias`, `name/version`, a run's id or name, or a folder.

    Raises:
        InputError: There is no such model; the known ones are listed.
    """
    if (Path(model) / "MLmodel").exists():
        return Path(model)
    if model.startswith((".", "/")):
        raise InputError(f"{model}: no model here (a model's folder holds MLmodel and data/model.keras)")

    from r2d2.tracking import runs, store, zoo

    client = store.connect(store.resolve())
    if "@" in model or "/" in model:
        return zoo.fetch(client, model)
    try:
        run = runs.find(client, model)
    except InputError:
        known = [v.reference + "".join(f" @{alias}" for alias in v.aliases) for v in zoo.list_versions(client)]
        raise InputError(
            f"model {model!r}: no folder, run or registered model of that name (write name@alias or name/version); "
            f"the registry has: {', '.join(known) or 'none yet'}"
        ) from None
    return zoo.fetch(client, zoo.version_of_run(client, run.run_id).reference)


def started(experiment: config.Experiment) -> config.Experiment:
    """The experiment with the network and weights that its `start_from` means, if it has one.

    Raises:
        InputError: There is no such model.
    """
    if experiment.start_from is None:
        return experiment
    network = experiment.model
    if "model" not in experiment.model_fields_set:
        source = experiment.start_from.removeprefix("zoo:")
        known = read_metadata(resolve(source))
        network = config.parse(known["experiment"], source=source).model.model_copy(update={"freeze": None})
    network = network.model_copy(update={"weights": experiment.start_from})
    return experiment.model_copy(update={"model": network})


def parents(experiment: config.Experiment) -> list[dict[str, Any]]:
    """The registered models that an experiment's network starts from, each with all patients it has seen.

    Returns:
        `model` (`name/version`) and `seen`, the hashes of the scans that it and those it came from were trained or
        chosen on; the nearest first.
    """
    weights = experiment.model.weights or ""
    if not weights.startswith("zoo:"):
        return []
    from r2d2.tracking import store, zoo

    found = zoo.get(store.connect(store.resolve()), weights)
    known = read_metadata(resolve(found.reference))
    return [{"model": found.reference, "seen": own_scans(known)}, *known.get("parents", [])]


def read_metadata(folder: Path) -> dict[str, Any]:
    """What is saved beside the network in a model's folder, without loading that.

    Raises:
        InputError: R2D2 did not save it.
    """
    try:
        return yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["metadata"]["r2d2"]
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        raise InputError(f"{folder}: not a model that R2D2 saved; its MLmodel has no metadata.r2d2") from None


def own_scans(known: Mapping[str, Any]) -> list[str]:
    """The hashes of the scans that a model itself was trained or chosen on, of what is saved beside it."""
    names = [*known["split"]["training"], *known["split"]["validation"]]
    return sorted(known["contents"][name] for name in names)


def weights_file(experiment: config.Experiment) -> Path | None:
    """The file of weights that an experiment's network starts from, where all nodes find it, or None.

    It lies in the experiment's storage: ImageNet's under the name that Keras gives it, any other, a registered model's
    too, under a hash of what is in it, so that it is the same for a run that is started again, whatever became of the
    file or alias since.

    Raises:
        InputError: There is no such file or registered model.
        WorkFailed: ImageNet's weights cannot be fetched.
    """
    weights, folder = experiment.model.weights, storage(experiment) / "weights"
    if weights is None:
        return None
    if weights == "imagenet":
        from r2d2.models.weights import imagenet

        assert isinstance(experiment.model, config.DistFCN)
        return imagenet(experiment.model.encoder, folder)
    if weights.startswith("zoo:"):
        source = resolve(weights.removeprefix("zoo:")) / "data" / "model.keras"
    else:
        source = Path(weights)
    try:
        with source.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        kept = folder / f"{content}{source.suffix}"
        if not kept.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(kept) as beside:
                shutil.copyfile(source, beside)
    except OSError as error:
        raise InputError(f"model.weights {weights}: {source}: {error.strerror or error}") from None
    return kept
