"""Prepare an experiment's data: find, split, check, slice."""

import hashlib
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2 import config, job
from r2d2.console import bar
from r2d2.errors import InputError

if TYPE_CHECKING:
    from r2d2.data.prepare import Prepared, Spread


def prepare(
    experiment: config.Experiment, spread: "Spread | None" = None
) -> tuple["Prepared", dict[str, tuple[str, ...]]]:
    """The experiment's prepared data, made now or found, and the cases in each part of its split.

    Args:
        experiment: The experiment.
        spread: Maps a function over the cases; processes of this machine if absent.

    Raises:
        InputError: Data that would spoil the training, or too little of it.
    """
    from r2d2.data import parallel
    from r2d2.data.cases import find_cases
    from r2d2.data.fingerprint import class_weights
    from r2d2.data.prepare import prepare as prepare_dataset
    from r2d2.data.split import split_patients

    dataset = find_cases(here(experiment.data, storage(experiment)))
    split = split_patients(dataset, experiment.data.split)
    for part in ("training", "validation"):
        if not split[part]:
            raise InputError(f"data.split: no patient is left for {part}; raise its fraction or add patients")
    prepared = prepare_dataset(
        dataset, experiment.preprocess, storage(experiment) / "prepared", spread or parallel.spread
    )

    class_weights(experiment.training.class_weights, prepared.labels, prepared.fingerprint)  # or it is refused here
    slices = len(prepared.training_rows(split["training"], experiment.preprocess.slices))
    workers, batch = experiment.logical_workers, experiment.training.batch_size
    if slices < batch * workers:
        which = "training.virtual_workers" if experiment.training.virtual_workers else "cluster.workers"
        raise InputError(
            f"training.batch_size ({batch}) x {which} ({workers}) = {batch * workers} images a step, but there are "
            f"only {slices} training slices; lower one of the two"
        )
    return prepared, split


def here(data: config.Data, store: Path) -> config.Data:
    """The data, or those of a local copy if they are at a URL.

    Raises:
        InputError: There is nothing at the URL; or the folder is not where a Ray job runs.
        WorkFailed: The copy broke off.

    The copy lies in `store`, under the URL's name; it is brought up to date each time.
    """
    if isinstance(data.path, Path):
        if job.submission() and not data.path.is_dir():
            inside = data.path.is_relative_to(Path.cwd())
            why = "; relative paths start from the job's copy of the submitted folder, without data" if inside else ""
            raise InputError(
                f"data.path {data.path}: no such folder on {socket.gethostname()}, where the job runs{why}; give a "
                "folder that all nodes share, by its whole path, or a URL (s3://, https://, ...)"
            )
        return data
    from r2d2.data.mirror import copy, list_remote

    remote = list_remote(data.path)
    readable, own = (
        re.sub(r"[^\w.-]+", "_", data.path).strip("_")[:100],
        hashlib.sha256(data.path.encode()).hexdigest()[:8],
    )
    folder = store / "mirrors" / f"{readable}-{own}"
    with bar(f"Copying {data.path[:60]}", len(remote.files)) as advance:
        copy(remote, folder, advance)
    return data.model_copy(update={"path": folder})


def storage(experiment: config.Experiment) -> Path:
    """The folder of prepared data and checkpoints, common to all nodes."""
    return experiment.tracking.storage or config.home()


def described(prepared: "Prepared", split: dict[str, tuple[str, ...]], parents: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run records of its data; see `tracking.runs.create`."""
    return {
        "hash": prepared.key,
        "labels": prepared.labels,
        "channels": prepared.channels,
        "split": split,
        "contents": {case.name: case.content for case in prepared.cases},
        "parents": parents,
    }
