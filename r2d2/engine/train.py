"""Train an experiment: from its file to a registered model."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2d2 import config
from r2d2.console import bar, command, say
from r2d2.engine.doctor import require
from r2d2.engine.models import weights_file
from r2d2.engine.prepare import prepare, storage
from r2d2.errors import InputError, WorkFailed

ELSEWHERE = {
    *("cluster.address", "cluster.cpus_per_worker", "cluster.gpus_per_worker", "cluster.max_restarts"),
    *("tracking.uri", "tracking.storage"),
}
"""Settings that may change when a run is resumed: where it runs, not what it computes."""


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        run_id: The MLflow run.
        model_uri: Its registered model, `models:/name/version`.
        model: The same as people type it, `name/version`.
        metrics: Means over the test patients, by the names `segeval.summary` gives them.
        rows: A row a test case, likewise.
        best_epoch: The epoch whose weights are the model.
        restarts: How often the run lost a worker and went on.
        reason: Why the training ended.
        verdict: What limited its speed, in words.
    """

    run_id: str
    model_uri: str
    model: str
    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    best_epoch: int
    restarts: int
    reason: str
    verdict: str


def train(experiment: config.Experiment | None, resume: str | None = None) -> RunResult:
    """Train, test and register.

    Args:
        experiment: What to do; may be absent with `resume`.
        resume: A run that did not finish: it goes on from its last checkpoint with its own experiment.

    Raises:
        InputError: Before anything is recorded: data, settings or cluster do not fit.
        WorkFailed: The training diverged, or lost its workers more often than `cluster.max_restarts`.
    """
    began = time.time()
    if experiment is None and resume is None:
        raise InputError("nothing to train: give an experiment file, or --resume RUN")
    require("tensorflow", "horovod")
    from r2d2.cluster import tasks
    from r2d2.cluster.placement import connected
    from r2d2.tracking import runs, store

    run = None
    if resume is not None:
        run = runs.find(store.connect(store.resolve(experiment.tracking.uri if experiment else None)), resume)
        experiment = _resumed(runs.read_experiment(run), experiment, resume)
    assert experiment is not None
    uri = store.resolve(experiment.tracking.uri)
    store.check(uri)

    with connected(experiment.cluster) as placement:
        if placement.nodes > 1 and uri.startswith("sqlite:"):
            raise InputError(
                f"tracking.uri {uri}: workers on {placement.nodes} nodes cannot write one SQLite file; "
                "start an MLflow server and give its http address"
            )
        # On a cluster of several nodes all of them prepare, each CPU a case.
        prepared, split = prepare(experiment, tasks.spread if placement.nodes > 1 else None)
        dataset = {
            "hash": prepared.key,
            "labels": prepared.labels,
            "channels": prepared.channels,
            "split": split,
            "contents": {case.name: case.content for case in prepared.cases},
        }
        if run is None:
            run = runs.create(store.connect(uri), experiment, dataset)
        else:
            _can_go_on(run, runs.read_dataset(run), dataset, _run_folder(experiment, run.run_id))
            run.start_again()
        return _fit(experiment, run, uri, prepared.folder, split, placement, began)


def _fit(
    experiment: config.Experiment, run: Any, uri: str, prepared: Any, split: Any, placement: Any, began: float
) -> RunResult:
    from r2d2.cluster import trainer
    from r2d2.cluster.leaving import STOP
    from r2d2.cluster.worker import Task
    from r2d2.training.state import Checkpoints

    folder = _run_folder(experiment, run.run_id)
    checkpoints = Checkpoints(folder)
    weights = weights_file(experiment) if checkpoints.latest() is None else None
    task = Task(
        experiment=experiment.to_yaml(),
        run_id=run.run_id,
        tracking_uri=uri,
        prepared=str(prepared),
        run_folder=str(folder),
        owner=checkpoints.take_over(),
        split={part: list(names) for part, names in split.items()},
        threads=placement.cpus_per_worker,
        began=began,
        asked=time.time(),
        weights=str(weights) if weights else None,
    )
    (folder / STOP).unlink(missing_ok=True)
    restarts: list[str] = []
    with bar(f"Training {experiment.name}", experiment.training.epochs) as advance:

        def on_epoch(row: dict[str, float]) -> None:
            if "epoch" in row and "failed" not in row:
                dice = f"  val dice {row['val/dice']:.3f}" if "val/dice" in row else ""
                advance(f"loss {row['train/loss']:.4f}{dice}", done=int(row["epoch"]))

        def on_restart(cause: str, traceback: str) -> None:
            restarts.append(cause)
            run.tag(restarts=len(restarts), **{f"restart.{len(restarts)}": cause})
            run.attach_text(f"failures/restart-{len(restarts)}.txt", traceback)
            say(f"A worker was lost ({cause}); going on from the last checkpoint")

        advance("starting the workers", done=0)
        try:
            with _leaving_well(folder / STOP):
                result = trainer.fit(task, placement, experiment.cluster.max_restarts, on_epoch, on_restart)
        except trainer.TrainingFailed as error:
            run.attach_text("failures/last.txt", error.traceback)
            run.end("FAILED", str(error))
            raise WorkFailed(
                f"run {run.run_id} failed: {error}; the traceback is its failures/last.txt; "
                f"once mended: {command()} train --resume {run.run_id}"
            ) from error
        except BaseException as error:
            run.end("KILLED", f"{type(error).__name__} in the driver")
            raise
    if "superseded" in result:
        raise WorkFailed(f"run {run.run_id} goes on elsewhere: another r2d2 train --resume has taken it over")
    if result.get("failed"):
        run.end("FAILED", result["left"])
        raise WorkFailed(f"run {run.run_id} failed: {result['left']}")
    if "model_uri" not in result:
        run.end("KILLED", result.get("left", "stopped"))
        raise WorkFailed(f"run {run.run_id} was stopped; go on with {command()} train --resume {run.run_id}")
    run.end("FINISHED", result["left"])
    return RunResult(
        run_id=run.run_id,
        model_uri=result["model_uri"],
        model=result["model_uri"].removeprefix("models:/"),
        metrics=result["test"],
        rows=result["rows"],
        best_epoch=result["best_epoch"],
        restarts=len(restarts),
        reason=result["left"],
        verdict=result["verdict"],
    )


@contextlib.contextmanager
def _leaving_well(stop: Path) -> Iterator[None]:
    """Turn the first SIGTERM or Ctrl-C into a wish that the workers find, and leave for, with a checkpoint."""
    before: dict[int, Any] = {}

    def ask(number: int, frame: object) -> None:  # noqa: ARG001
        stop.write_text(signal.Signals(number).name)
        say("Leaving after this step, with a checkpoint")
        signal.signal(number, before[number])

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, ask)
        yield
    finally:
        for installed, handler in before.items():
            signal.signal(installed, handler)


def _resumed(recorded: config.Experiment, given: config.Experiment | None, run: str) -> config.Experiment:
    """The recorded experiment, or a given one that differs from it in nothing but ELSEWHERE."""
    if given is None:
        return recorded
    # Virtual workers do the same on any number of real ones.
    free = ELSEWHERE | ({"cluster.workers"} if recorded.training.virtual_workers else set())
    other = [key for key in config.differences(recorded, given) if key not in free]
    if other:
        raise InputError(f"--resume {run}: its {other[0]} was another; a run goes on with the settings it began with")
    return given


def _can_go_on(run: Any, recorded: dict[str, Any], found: dict[str, Any], folder: Path) -> None:
    from r2d2.training.state import Checkpoints

    if recorded["hash"] != found["hash"]:
        raise InputError(f"--resume {run.run_id}: the data has changed since the run began; start a new run")
    if Checkpoints(folder).latest() is None and run.has_epochs():
        raise InputError(
            f"--resume {run.run_id}: no checkpoints in {folder}; set R2D2_HOME (or tracking.storage) to where it ran"
        )


def _run_folder(experiment: config.Experiment, run_id: str) -> Path:
    return storage(experiment) / "runs" / run_id
