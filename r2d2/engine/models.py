"""What people call a model or its weights, resolved to a folder or file on this machine."""

import hashlib
import shutil
from pathlib import Path

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
        known = [
            f"{v.name}/{v.version}" + "".join(f" @{alias}" for alias in v.aliases) for v in zoo.list_versions(client)
        ]
        raise InputError(
            f"model {model!r}: no folder, run or registered model of that name (write name@alias or name/version); "
            f"the registry has: {', '.join(known) or 'none yet'}"
        ) from None
    return zoo.fetch_of_run(client, run.run_id)


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
