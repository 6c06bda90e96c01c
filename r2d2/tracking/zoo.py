"""The model zoo: MLflow's registry, by names that people use."""

from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from r2d2.errors import InputError


@dataclass(frozen=True)
class ModelVersion:
    """A registered model: `name`, `version`, its aliases and the run that made it."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str


def list_versions(client: MlflowClient) -> list[ModelVersion]:
    """Every registered version, by name, the newest first."""
    listed = []
    for model in client.search_registered_models(max_results=1000, order_by=["name ASC"]):
        aliases: dict[int, list[str]] = {}
        for alias, version in model.aliases.items():
            aliases.setdefault(int(version), []).append(alias)
        versions = client.search_model_versions(f"name='{model.name}'", max_results=1000)
        for version in sorted(versions, key=lambda found: -int(found.version)):
            number = int(version.version)
            listed.append(
                ModelVersion(model.name, number, tuple(sorted(aliases.get(number, []))), version.run_id or "")
            )
    return listed


def fetch(client: MlflowClient, model: str) -> Path:
    """The local folder of a registered model, copied here first if it is elsewhere.

    Args:
        client: A client of the store.
        model: `name@alias` or `name/version`, optionally after `zoo:`.

    Raises:
        InputError: The registry does not know it; what it knows is listed.
    """
    reference = model.removeprefix("zoo:")
    name, slash, version = reference.partition("/")
    if slash and not version.isdecimal():
        raise InputError(f"model {model!r}: a version is a number, write {name}/1 or {name}@alias")
    try:
        return Path(mlflow.artifacts.download_artifacts(f"models:/{reference}"))
    except (MlflowException, OSError) as error:
        known = [f"{v.name}/{v.version}" + "".join(f" @{a}" for a in v.aliases) for v in list_versions(client)]
        if any(reference.replace("@", "/").split("/")[0] == name.split("/")[0] for name in known):
            known = [name for name in known if name.split("/")[0] == reference.replace("@", "/").split("/")[0]]
        rule = "no such model" if "not found" in str(error).lower() else " ".join(str(error).split())[:200]
        raise InputError(f"model {model!r}: {rule}; the registry has: {', '.join(known) or 'none yet'}") from None


def fetch_of_run(client: MlflowClient, run_id: str) -> Path:
    """The local folder of the newest registered model that a run made.

    Raises:
        InputError: The run has none.
    """
    versions = client.search_model_versions(f"run_id='{run_id}'")
    if not versions:
        raise InputError(f"run {run_id}: it has no registered model (did it finish? `r2d2 runs show {run_id}`)")
    newest = max(versions, key=lambda found: int(found.version))
    return fetch(client, f"{newest.name}/{newest.version}")
