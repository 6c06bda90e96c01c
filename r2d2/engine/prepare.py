"""Prepare an experiment's data: find, split, check, slice."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2 import config
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
    from r2d2.data.mirror import here
    from r2d2.data.prepare import prepare as prepare_dataset
    from r2d2.data.split import split_patients

    training = experiment.training
    dataset = find_cases(here(experiment.data, storage(experiment)))
    split = split_patients(dataset, experiment.data.split)
    for part in ("training", "validation"):
        if not split[part]:
            raise InputError(f"data.split: no patient is left for {part}; raise its fraction or add patients")
    prepared = prepare_dataset(
        dataset, experiment.preprocess, storage(experiment) / "prepared", spread or parallel.spread
    )

    rows, weights = prepared.training_rows(split["training"], experiment.preprocess.slices), training.class_weights
    found = weights == "fingerprint" and any(prepared.masks[row].any() for row in rows)
    class_weights(weights, prepared.labels, (1, int(found)))  # or it is refused here
    workers, batch, slices = experiment.logical_workers, training.batch_size, len(rows)
    if slices < batch * workers:
        which = "training.virtual_workers" if training.virtual_workers else "cluster.workers"
        raise InputError(
            f"training.batch_size ({batch}) x {which} ({workers}) = {batch * workers} images a step, but there are "
            f"only {slices} training slices; lower one of the two"
        )
    return prepared, split


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
