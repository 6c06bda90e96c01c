"""What people read of runs and models, by the command line and the dashboard alike.

The command line asks once. The viewers of a dashboard share what was read (`shared`): a question goes to the store once
in its time to live, whoever and however many want to know. Of what goes on only what is new is read.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.rest_utils import http_request

from r2d2.errors import InputError
from r2d2.network import without_passwords
from r2d2.tracking import runs, store, zoo
from r2d2.tracking.shared import Answer, Shared

T = TypeVar("T")
LATEST = 100
"""Runs that a list shows."""
SHOWN = 50
"""The same, by pages that are read again and again."""
LIVE_S = 2.0
"""How old may be what is known of what goes on."""
SETTLED_S = 30.0
"""And of what is over, which people may still rename, tag or delete."""
POINTS = 500
"""Of a metric's history, evenly spread, where there are more."""
HISTORIES = 200
"""Runs whose histories are kept."""
MANY = 1_000
GOING_ON = " AND attributes.status = 'RUNNING'"
_shared = Shared()
_clients: dict[str, MlflowClient] = {}
_merged: dict[Hashable, tuple[list["RunView"], list["RunView"], list["RunView"]]] = {}
_readers = ThreadPoolExecutor(4, thread_name_prefix="histories")


@dataclass(frozen=True)
class Point:
    """A value of a metric: at which step, when (seconds of the clock), how much."""

    step: int
    at: float
    value: float


@dataclass(frozen=True)
class RunView:
    """A run as people see it.

    Attributes:
        run_id, name, status: As MLflow has them; RUNNING, FINISHED, FAILED or KILLED.
        experiment_id: Of MLflow's experiment that it is in.
        began, ended: In seconds of the clock; None as long as it goes on.
        tags: Those of R2D2's, without their `r2d2.`.
        params: Its settings, by dotted key.
        latest: The last value of each metric.
        parent: The run that it is a part of, if it is.
        actions: What people did with it; see `runs.actions`.
        page: What a browser opens at MLflow's.
    """

    run_id: str
    experiment_id: str
    name: str
    status: str
    began: float
    ended: float | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    latest: Mapping[str, Point]
    parent: str | None
    actions: Sequence[Mapping[str, Any]]
    page: str | None

    @property
    def running(self) -> bool:
        """Whether it goes on, as far as its store knows."""
        return self.status == "RUNNING"

    @property
    def kind(self) -> str:
        """`run`, or what else it is: a `sweep`, a `scale` study, a `trial` of a sweep."""
        return next((kind for kind in ("sweep", "scale", "trial") if kind in self.tags), "run")

    def metric(self, name: str) -> float | None:
        """The last value of a metric, if there is one."""
        return self.latest[name].value if name in self.latest else None

    @property
    def epochs_done(self) -> int:
        """How many epochs of its training are over."""
        return self.latest["train/loss"].step if "train/loss" in self.latest else 0

    def number(self, name: str) -> float:
        """A setting as a number; 0 where it is none: `null` is recorded as None."""
        try:
            return float(self.params.get(name) or 0)
        except ValueError:
            return 0.0

    @property
    def heard(self) -> float:
        """When it was heard of last, in seconds of the clock."""
        return max([self.began, *(point.at for point in self.latest.values())])


def shared(key: Hashable, question: Callable[[], T], live_s: float | Callable[[T], float]) -> Answer[T]:
    """The answer to a question about the store in force, which all viewers of this process share; see `Shared.ask`."""
    return _shared.ask((store.resolve(), key), question, live_s)


def forget() -> None:
    """Read everything anew the next time: something was done."""
    _shared.forget()


def view(run_id: str) -> Answer[RunView]:
    """One run, by its id.

    Raises:
        InputError: There is none, or the store has never answered.
    """

    def question() -> RunView:
        client = _client()
        return _view(_asked(lambda: client.get_run(run_id), f"run {run_id}"), client.tracking_uri)

    return shared(("run", run_id), question, _age)


def find(told: str) -> Answer[RunView]:
    """One run, by its id or name.

    Raises:
        InputError: As `view`.
    """

    def question() -> RunView:
        client = _client()
        found = _asked(lambda: runs.find(client, told), f"run {told}").found
        return _view(found, client.tracking_uri)

    return shared(("found", told), question, _age)


def latest_runs(limit: int = SHOWN) -> Answer[list[RunView]]:
    """The latest runs of every experiment, the latest first; a sweep is one."""
    return _listed(f"tags.`r2d2.version` LIKE '%' AND tags.`{runs.PARENT_TAG}` IS NULL", None, limit)


def parts(run: RunView) -> Answer[list[RunView]]:
    """The runs below a sweep's or a study's, the latest first."""
    return _listed(f"tags.`{runs.PARENT_TAG}` = '{run.run_id}'", run.experiment_id, MANY)


def running_parts() -> Answer[list[RunView]]:
    """The runs below a sweep or a study that go on, whichever it is."""
    which = f"tags.`r2d2.version` LIKE '%' AND tags.`{runs.PARENT_TAG}` LIKE '%'"
    return shared(("going on", which), lambda: _search(which + GOING_ON, None, MANY), LIVE_S)


def _search(which: str, experiment: str | None, limit: int) -> list[RunView]:
    if store.is_new(uri := store.resolve()):
        return []
    client = _client()

    def ask() -> Any:
        found = [experiment] if experiment else [one.experiment_id for one in client.search_experiments()]
        return client.search_runs(found, which, ViewType.ACTIVE_ONLY, limit)

    return [_view(run, uri) for run in _asked(ask, "the runs")]


def _listed(which: str, experiment: str | None, limit: int) -> Answer[list[RunView]]:
    """The runs of a search. All of them are read now and then; meanwhile those that go on, and those that began.

    Those that go on are in it, however many began since.
    """
    every = shared(("runs", which, limit), lambda: _search(which, experiment, limit), SETTLED_S)
    going = shared(("going on", which), lambda: _search(which + GOING_ON, experiment, MANY), LIVE_S)
    on = {run.run_id: run for run in going.value}
    if any(run.running and run.run_id not in on for run in every.value):  # it has ended since
        _shared.forget((store.resolve(), ("runs", which, limit)))
        every = shared(("runs", which, limit), lambda: _search(which, experiment, limit), SETTLED_S)
    key = (store.resolve(), which, limit)
    before = _merged.get(key)
    if before is None or before[0] is not every.value or before[1] is not going.value:
        known = {run.run_id: run for run in every.value} | on
        ordered = sorted(known.values(), key=lambda run: run.began, reverse=True)
        found = [run for place, run in enumerate(ordered) if place < limit or run.run_id in on]
        _merged[key] = before = (every.value, going.value, found)
    return Answer(before[2], going.age_s, going.problem or every.problem)


def history(run: RunView, names: Sequence[str]) -> Answer[dict[str, list[Point]]]:
    """What these metrics of a run were, in order of their steps; of what went on since, only that is read.

    Args:
        run: The run as it is known now, which says what is new.
        names: Those that it does not have are absent.
    """
    wanted = tuple(name for name in names if name in run.latest)

    def question() -> dict[str, list[Point]]:
        return _histories_of(run).read(run, wanted)

    return shared(("history", run.run_id, wanted), question, lambda _: _age(run))


def files(run: RunView, folder: str) -> Answer[list[str]]:
    """The paths of a run's files in a folder of it; none if there is no such folder."""

    def question() -> list[str]:
        client = _client()
        found = _asked(lambda: client.list_artifacts(run.run_id, folder), f"the files of {run.name}")
        return sorted(one.path for one in found if not one.is_dir)

    return shared(("files", run.run_id, folder), question, lambda _: 5 * _age(run))


def content(run: RunView, path: str) -> bytes:
    """A file of a run, which is taken for one that does not change.

    Raises:
        InputError: There is none, or its store does not answer.
    """

    def question() -> bytes:
        client = _client()
        with tempfile.TemporaryDirectory() as folder:

            def ask() -> bytes:
                return Path(
                    mlflow.artifacts.download_artifacts(
                        run_id=run.run_id, artifact_path=path, dst_path=folder, tracking_uri=client.tracking_uri
                    )
                ).read_bytes()

            return _asked(ask, f"{path} of {run.name}")

    return shared(("content", run.run_id, path), question, 3600.0).value


class _Histories:
    """What is known of a run's metrics."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, list[Point]] = {}
        self._gone_back = ""

    def read(self, run: RunView, names: Sequence[str]) -> dict[str, list[Point]]:
        """The histories of these metrics; what is new is read, side by side."""
        with self._lock:
            # A run that went back to an earlier epoch records later ones anew: all is read again.
            if (back := run.tags.get("attempts", "") + str(_count(run, "sentinel."))) != self._gone_back:
                self._known, self._gone_back = {}, back
            missing = {name: since for name in names if (since := self._since(run, name)) is not None}
            client = _client()
            asked = {
                name: _readers.submit(_interval, client, run.run_id, name, since) for name, since in missing.items()
            }
            for name, one in asked.items():
                new = _asked(one.result, f"{name} of {run.name}")
                before = [point for point in self._known.get(name, ()) if point.step < missing[name]]
                self._known[name] = _by_step([*before, *new])
            return {name: self._known[name] for name in names if name in self._known}

    def _since(self, run: RunView, name: str) -> int | None:
        """From which step on a metric is to be read; None if all of it is known, or can be told from its last value."""
        last, known = run.latest[name], self._known.get(name, [])
        if not known or len(known) > 2 * POINTS:
            return 0
        if last.step <= known[-1].step:
            # Known, if another viewer has been told later; else recorded anew.
            return None if any((last.step, last.at) == (one.step, one.at) for one in reversed(known)) else 0
        if last.step - known[-1].step <= _stride(run, name):
            self._known[name] = [*known, last]
            return None
        return known[-1].step + 1


_kept: dict[tuple[str, str], _Histories] = {}
_kept_lock = threading.Lock()


def _histories_of(run: RunView) -> _Histories:
    with _kept_lock:
        key = (store.resolve(), run.run_id)
        _kept[key] = found = _kept.pop(key, None) or _Histories()
        while len(_kept) > HISTORIES:
            _kept.pop(next(iter(_kept)))
        return found


def _stride(run: RunView, name: str) -> float:
    """How far apart two values of a metric can lie without one between them."""
    if name.startswith(("system/", "cost/")):
        return 1.5 * run.number("tracking.monitor_s")
    return 1


def _count(run: RunView, begin: str) -> int:
    return sum(name.startswith(begin) for name in run.tags)


def _interval(client: MlflowClient, run_id: str, name: str, since: int) -> list[Point]:
    """A metric's values from a step on: all of them, or POINTS of them, evenly spread."""
    far = 2**53
    if client.tracking_uri.startswith("http"):
        asked: dict[str, Any] = {"run_ids": [run_id], "metric_key": name, "max_results": POINTS}
        asked |= {"start_step": since, "end_step": far} if since else {}
        credentials = client._tracking_client.store.get_host_creds()
        answer = http_request(credentials, "/api/2.0/mlflow/metrics/get-history-bulk-interval", "GET", params=asked)
        answer.raise_for_status()
        found = answer.json().get("metrics", [])
        return [Point(int(one.get("step", 0)), int(one["timestamp"]) / 1000, float(one["value"])) for one in found]
    kept = client._tracking_client.store.get_metric_history_bulk_interval(
        [run_id], name, POINTS, since or None, far if since else None
    )
    return [Point(one.step, one.timestamp / 1000, one.value) for one in kept]


def _by_step(points: Sequence[Point]) -> list[Point]:
    """Each step once, as it was recorded last."""
    return list({point.step: point for point in sorted(points, key=lambda one: (one.step, one.at))}.values())


def _age(run: RunView) -> float:
    return LIVE_S if run.running else SETTLED_S


def _client() -> MlflowClient:
    """The client of the store in force, which is known to answer."""
    uri = store.resolve()
    if uri in _clients:
        store.check(uri)
    else:
        _clients[uri] = store.connect(uri)
    return _clients[uri]


def _asked(question: Callable[[], T], what: str) -> T:
    """What the store answers.

    Raises:
        LookupError: It knows no such thing.
        InputError: It does not answer, or refuses.
    """
    try:
        return question()
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise LookupError(f"{what}: not in {without_passwords(store.resolve())}") from None
        told = " ".join(str(error).split())[:120]
        raise InputError(f"the tracking server does not answer ({without_passwords(told)})") from None
    except FileNotFoundError:
        raise LookupError(f"{what}: its file is gone") from None
    except OSError as error:
        told = without_passwords(" ".join(str(error).split())[:120])
        raise InputError(f"the tracking server does not answer ({told})") from None


def _view(run: Any, uri: str) -> RunView:
    info, data = run.info, run.data
    return RunView(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        name=info.run_name or info.run_id,
        status=info.status,
        began=info.start_time / 1000,
        ended=info.end_time / 1000 if info.end_time and info.status != "RUNNING" else None,  # it may go on again
        tags={key.removeprefix("r2d2."): value for key, value in data.tags.items() if key.startswith("r2d2.")},
        params=data.params,
        latest={one.key: Point(one.step, one.timestamp / 1000, one.value) for one in data._metric_objs},
        parent=data.tags.get(runs.PARENT_TAG),
        actions=runs.actions(data.tags),
        page=runs.page(uri, info.experiment_id, info.run_id),
    )


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
            "reason": run.data.tags.get(runs.REASON_TAG) or None,
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
            "reason": run.data.tags.get(runs.REASON_TAG) or None,
            "page": runs.page(uri, run.info.experiment_id, run.info.run_id),
        }
        for run in reversed(found)
        for job in run.data.tags[runs.JOB_TAG].split()
    }


def show_run(name: str) -> dict[str, Any]:
    """One run, by id or name: what `list_runs` says, all its tags, latest metrics and parameters; a sweep's trials."""
    client = store.connect(store.resolve())
    run = runs.find(client, name).found
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
                "reason": trial.data.tags.get(runs.REASON_TAG) or None,
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
