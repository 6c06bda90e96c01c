"""What people read of runs and models, by the command line and the dashboard alike.

The command line asks once. The viewers of a dashboard share what was read: `shared` asks a question once in its time to
live, whoever and however many want to know.
"""

import itertools
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import ViewType

from r2d2.tracking import runs, store, zoo
from r2d2.tracking.shared import Answer, Shared

T = TypeVar("T")
LATEST = 100
"""Runs that a list shows."""
_shared = Shared()


def shared(key: Hashable, question: Callable[[], T], live_s: float) -> Answer[T]:
    """The answer to a question about the store in force, which all viewers of this process share; see `Shared.ask`."""
    return _shared.ask((store.resolve(), key), question, live_s)


def forget() -> None:
    """Read everything anew the next time: something was done."""
    _shared.forget()


def list_runs(limit: int = LATEST) -> list[dict[str, Any]]:
    """The latest runs of every experiment, a sweep being one: id, name, status, start (local time), headline scores."""
    if store.is_new(uri := store.resolve()):
        return []
    client = store.connect(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    ours = f"tags.`r2d2.version` LIKE '%' AND tags.`{runs.PARENT_TAG}` IS NULL"
    found = client.search_runs(experiments, ours, max_results=limit, run_view_type=ViewType.ACTIVE_ONLY)
    return [
        {
            "run_id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "started": _local_time(run.info.start_time),
            "val/dice": run.data.metrics.get("val/dice", run.data.metrics.get("sweep/best_dice")),
            "test/dice": run.data.metrics.get("test/dice"),
            "reason": run.data.tags.get("r2d2.reason"),
        }
        for run in found
    ]


def runs_of_jobs(uri: str, limit: int = LATEST) -> dict[str, dict[str, Any]]:
    """The latest runs that Ray jobs made or went on with, by the job's id: `run_id`, `status`, `reason` and `page`.

    Args:
        uri: Of the store.
        limit: How many runs.
    """
    if store.is_new(uri):
        return {}
    client = store.connect(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    of_jobs = f"tags.`{runs.JOB_TAG}` LIKE '%' AND tags.`{runs.PARENT_TAG}` IS NULL"
    found = client.search_runs(experiments, of_jobs, max_results=limit, run_view_type=ViewType.ACTIVE_ONLY)
    return {
        job: {
            "run_id": run.info.run_id,
            "status": run.info.status,
            "reason": run.data.tags.get("r2d2.reason"),
            "page": runs.page(uri, run.info.experiment_id, run.info.run_id),
        }
        for run in reversed(found)
        for job in run.data.tags[runs.JOB_TAG].split()
    }


def show_run(name: str) -> dict[str, Any]:
    """One run, by id or name: what `list_runs` says, all its tags, latest metrics and parameters; a sweep's trials."""
    client = store.connect(store.resolve())
    run = client.get_run(runs.find(client, name).run_id)
    below = f"tags.`{runs.PARENT_TAG}` = '{run.info.run_id}'"
    trials = client.search_runs([run.info.experiment_id], below, order_by=["attributes.start_time ASC"])
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "started": _local_time(run.info.start_time),
        "tags": {key: value for key, value in sorted(run.data.tags.items()) if key.startswith("r2d2.")},
        "metrics": dict(sorted(run.data.metrics.items())),
        "params": dict(sorted(run.data.params.items())),
        "trials": [
            {
                "run_id": trial.info.run_id,
                "name": trial.info.run_name,
                "status": trial.info.status,
                "val/dice": trial.data.metrics.get("val/dice"),
                "reason": trial.data.tags.get("r2d2.reason"),
            }
            for trial in trials
        ],
    }


def list_models() -> list[zoo.ModelVersion]:
    """Every registered version."""
    uri = store.resolve()
    return [] if store.is_new(uri) else zoo.list_versions(store.connect(uri))


def datasets(limit: int = LATEST) -> dict[str, str | None]:
    """The folders of data on this machine that the latest runs were trained on, the latest first.

    Returns:
        Of each folder its classes as `r2d2 data check --labels` takes them, None where its own file says them.
    """
    if store.is_new(uri := store.resolve()):
        return {}
    client = store.connect(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    ours = f"tags.`r2d2.version` LIKE '%' AND tags.`{runs.PARENT_TAG}` IS NULL"
    found: dict[str, str | None] = {}
    for run in client.search_runs(experiments, ours, max_results=limit, run_view_type=ViewType.ACTIVE_ONLY):
        told = run.data.params
        path = told.get("data.path", "")
        if path and "://" not in path and Path(path).is_dir():
            classes = {key.rpartition(".")[2]: name for key, name in told.items() if key.startswith("data.labels.")}
            found.setdefault(path, ", ".join(f"{value}: {name}" for value, name in classes.items()) or None)
    return found


def family(versions: Sequence[zoo.ModelVersion], reference: str) -> list[tuple[str, str]]:
    """Who came from whom among models: (parent, child) of every step above and below one, each `name/version`.

    A parent that is not among the versions is named all the same: it was deleted, or is in another registry.
    """
    steps: dict[tuple[str, str], None] = {}
    for one in versions:
        chain = [one.reference, *(name for name in one.parents.split(", ") if name)]  # the nearest first
        steps |= {(parent, child): None for child, parent in itertools.pairwise(chain)}
    found: dict[tuple[str, str], None] = {}
    for here, there in ((1, 0), (0, 1)):  # from a child to its parents, from a parent to its children
        todo = [reference]
        while todo:
            name = todo.pop()
            new = [step for step in steps if step[here] == name and step not in found]
            found |= dict.fromkeys(new)
            todo += [step[there] for step in new]
    return [*found]


def _local_time(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))
