"""The model zoo: MLflow's registry, by names that people use."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion as Registered
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from r2d2.errors import InputError
from r2d2.tracking import store


@dataclass(frozen=True)
class ModelVersion:
    """A registered model: its name and version, its aliases, the run that made it, and what its card says first.

    `dice` is the mean over its test patients, with the 95 % interval over them; None where it was not tested.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    task: str
    modality: str
    classes: str
    dice: float | None
    dice_low: float | None
    dice_high: float | None
    parents: str

    @property
    def reference(self) -> str:
        """`name/version`, as people type it."""
        return f"{self.name}/{self.version}"


def list_versions(client: MlflowClient, name: str | None = None) -> list[ModelVersion]:
    """Every registered version, or those of one model, by name, the newest first."""
    of = f"name='{name}'" if name else None
    aliases = _held(*_pages(client.search_registered_models, of))
    found = [_version(made, aliases) for made in _pages(client.search_model_versions, of)]
    return sorted(found, key=lambda one: (one.name, -one.version))


@store.talking()
def get(client: MlflowClient, model: str) -> ModelVersion:
    """A version by `name@alias` or `name/version`, optionally after `zoo:`.

    Raises:
        InputError: The registry does not know it; what it knows is listed.
    """
    reference = model.removeprefix("zoo:")
    name, at, alias = reference.partition("@")
    if not at:
        name, slash, alias = reference.partition("/")
        if not slash or not alias.isdecimal():
            raise InputError(f"model {model!r}: a version is a number, write {name}/1 or {name}@alias")
    try:
        made = client.get_model_version_by_alias(name, alias) if at else client.get_model_version(name, alias)
        holders = client.get_registered_model(name)
    except MlflowException as error:
        known = [f"{v.reference}" + "".join(f" @{a}" for a in v.aliases) for v in list_versions(client)]
        known = [one for one in known if one.split("/")[0] == name] or known
        rule = "no such model" if error.get_http_status_code() in (400, 404) else " ".join(str(error).split())[:200]
        shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        raise InputError(f"model {model!r}: {rule}; the registry has: {shown or 'none yet'}") from None
    return _version(made, _held(holders))


def fetch(client: MlflowClient, model: str) -> Path:
    """The local folder of a registered model, copied here first if it is elsewhere.

    Args:
        client: A client of the store.
        model: `name@alias` or `name/version`, optionally after `zoo:`.

    Raises:
        InputError: The registry does not know it, or its files cannot be had.
    """
    found = get(client, model)
    try:
        return Path(mlflow.artifacts.download_artifacts(f"models:/{found.reference}"))
    except (MlflowException, OSError) as error:
        raise InputError(f"model {model!r}: its files cannot be read ({' '.join(str(error).split())[:200]})") from None


def read(client: MlflowClient, model: str, path: str) -> bytes:
    """A file of a registered model, without the others.

    Raises:
        InputError: As `fetch`.
    """
    found = get(client, model)
    with tempfile.TemporaryDirectory(prefix="r2d2-zoo-") as folder:
        try:
            made = mlflow.artifacts.download_artifacts(f"models:/{found.reference}/{path}", dst_path=folder)
            return Path(made).read_bytes()
        except (MlflowException, OSError) as error:
            told = " ".join(str(error).split())[:200]
            raise InputError(f"model {model!r}: its {path} cannot be read ({told})") from None


@store.talking()
def kept_here(client: MlflowClient, found: ModelVersion) -> Path | None:
    """The folder in which the store keeps a registered model, if this machine sees it."""
    uri = urlparse(client.get_model_version_download_uri(found.name, str(found.version)))
    folder = Path(url2pathname(uri.path))
    return folder if uri.scheme in ("", "file") and folder.is_dir() else None


def version_of_run(client: MlflowClient, run_id: str) -> ModelVersion:
    """The newest version that a run made.

    Raises:
        InputError: The run has none.
    """
    made = client.search_model_versions(f"run_id='{run_id}'")
    if not made:
        raise InputError(f"run {run_id}: it has no registered model (did it finish? `r2d2 runs show {run_id}`)")
    newest = max(made, key=lambda found: int(found.creation_timestamp))
    return get(client, f"{newest.name}/{newest.version}")


def register(client: MlflowClient, folder: Path, name: str, run_id: str, tags: Mapping[str, str]) -> tuple[str, int]:
    """Store a model's package with a run and register it as a new version, which takes the alias `candidate`.

    A version of this name that the run made already is taken as it is: its process may have died just after.

    Returns:
        The name and the version.
    """
    made = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    if made:
        version = int(made[0].version)
    else:
        experiment = client.get_run(run_id).info.experiment_id
        logged = client.create_logged_model(experiment, name="model", source_run_id=run_id)
        client.log_model_artifacts(logged.model_id, str(folder))
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        created = client.create_model_version(
            name,
            f"models:/{logged.model_id}",
            run_id,
            dict(tags),
            description=(folder / "card.md").read_text(encoding="utf-8")[:5000],
            model_id=logged.model_id,
        )
        version = int(created.version)
    newest = max(int(found.version) for found in _pages(client.search_model_versions, f"name='{name}'"))
    if version == newest:  # what is registered again later is no candidate any more
        client.set_registered_model_alias(name, "candidate", version)
    return name, version


def _held(*models: RegisteredModel) -> dict[tuple[str, int], list[str]]:
    """The aliases that versions hold, by name and version."""
    held: dict[tuple[str, int], list[str]] = {}
    for model in models:
        for alias, version in model.aliases.items():
            held.setdefault((model.name, int(version)), []).append(alias)
    return held


def _version(made: Registered, aliases: Mapping[tuple[str, int], list[str]]) -> ModelVersion:
    told = {key.removeprefix("r2d2."): value for key, value in made.tags.items() if key.startswith("r2d2.")}
    dice, low, high = (_number(told.get(key)) for key in ("dice", "dice_low", "dice_high"))
    return ModelVersion(
        name=made.name,
        version=int(made.version),
        aliases=tuple(sorted(aliases.get((made.name, int(made.version)), []))),
        run_id=made.run_id or "",
        task=told.get("task", ""),
        modality=told.get("modality", ""),
        classes=told.get("classes", ""),
        dice=dice,
        dice_low=low,
        dice_high=high,
        parents=told.get("parents", ""),
    )


def _number(text: str | None) -> float | None:
    """The number that a tag holds; none if it holds something else."""
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _pages(search: Callable[..., Any], query: str | None) -> list[Any]:
    """All that a search of MLflow's finds."""
    found = search(query, max_results=1000)
    every = list(found)
    while found.token:
        found = search(query, max_results=1000, page_token=found.token)
        every += found
    return every
