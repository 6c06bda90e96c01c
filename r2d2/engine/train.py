"""Train an experiment: from its file to a registered model."""

import contextlib
import os
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
from r2d2.engine.models import parents, started, weights_file
from r2d2.engine.prepare import described, prepare, storage
from r2d2.errors import InputError, WorkFailed
from r2d2.files import whole_file

ELSEWHERE = {
    *("cluster.address", "cluster.cpus_per_worker", "cluster.gpus_per_worker", "cluster.max_restarts"),
    *("tracking.uri", "tracking.storage", "tracking.monitor_s"),
}
"""Settings that may change when a run is resumed: where it runs, not what it computes. What is written on the model's
card and asked of it later (`card`, `promotion`) may, too."""
PATIENCE_S = 10.0
"""How long a run that is over waits for a tracking server that does not answer."""


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        run_id: The MLflow run.
        model: Its registered model as people type it, `name/version`; its folder if it could not be registered yet.
        model_uri: The same for MLflow, `models:/name/version`; None then.
        undelivered: How many records wait on the disk for the tracking server (`r2d2 runs send`).
        metrics: Means over the test patients, by the names `segeval.summary` gives them.
        rows: A row a test case, likewise.
        best_epoch: The epoch whose weights are the model.
        restarts: How often the run lost a worker and went on.
        reason: Why the training ended.
        verdict: What limited its speed, in words.
    """

    run_id: str
    model: str
    model_uri: str | None
    undelivered: int
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
    from r2d2.cluster.jobs import Queue
    from r2d2.cluster.leaving import STOP
    from r2d2.cluster.placement import connected
    from r2d2.tracking import runs, store

    run = None
    if resume is not None:
        run = runs.find(store.connect(store.resolve(experiment.tracking.uri if experiment else None)), resume)
        experiment = _resumed(runs.read_experiment(run), started(experiment) if experiment else None, resume)
    assert experiment is not None
    experiment = started(experiment)
    uri = store.resolve(experiment.tracking.uri)
    store.check(uri)

    with connected(experiment.cluster) as placement:
        # On a cluster of several nodes all of them prepare, each CPU a case.
        prepared, split = prepare(experiment, tasks.spread if placement.nodes > 1 else None)
        if run is None:
            dataset = described(prepared, split, parents(experiment))
            run = runs.create(store.connect(uri), experiment, dataset)
        else:
            dataset = runs.read_dataset(run)
            _can_go_on(run, dataset, prepared.key, _run_folder(experiment, run.run_id))
        say(f"Run {run.run_id}" + (f"  {run.page}" if run.page else ""))
        with Queue(say) as queue, _leaving_well(_run_folder(experiment, run.run_id) / STOP, queue):
            return _fit(experiment, run, prepared.folder, dataset, placement, began, queue)


def _fit(
    experiment: config.Experiment,
    run: Any,
    prepared: Path,
    dataset: dict[str, Any],
    placement: Any,
    began: float,
    queue: Any,
) -> RunResult:
    from r2d2.cluster.leaving import STOP, TAGGED
    from r2d2.cluster.monitors import Monitors
    from r2d2.cluster.worker import Task
    from r2d2.tracking.delivery import Delivery
    from r2d2.tracking.outbox import FOLDER, Outbox
    from r2d2.tracking.runs import git_commit, versions
    from r2d2.training.state import Checkpoints

    folder = _run_folder(experiment, run.run_id)
    checkpoints, stop = Checkpoints(folder), folder / STOP

    def on_stop() -> None:
        if not stop.exists():  # a signal's word weighs more
            with whole_file(stop) as beside:
                beside.write_text(TAGGED)
        if queue.waiting:  # there is nobody else who could find it
            os.kill(os.getpid(), signal.SIGTERM)

    weights = weights_file(experiment) if checkpoints.latest() is None else None
    task = Task(
        experiment=experiment.to_yaml(),
        run_id=run.run_id,
        prepared=str(prepared),
        run_folder=str(folder),
        owner=checkpoints.take_over(),
        split={part: list(names) for part, names in dataset["split"].items()},
        threads=placement.cpus_per_worker,
        began=began,
        asked=time.time(),
        git=git_commit(),
        packages=versions(),
        parents=dataset["parents"],
        weights=str(weights) if weights else None,
    )
    stop.unlink(missing_ok=True)
    # What an earlier driver left goes first, an `end` perhaps; then the run goes on.
    delivery = Delivery(run.client, run.run_id, folder / FOLDER, take_over=True, on_stop=on_stop)
    delivery.catch_up()
    run.start_again()
    outbox = Outbox(folder / FOLDER, f"driver-{time.time_ns()}")
    delivery.start()
    began_s, spent = run.so_far()
    monitors = Monitors(experiment.tracking.monitor_s, outbox, began_s, placement, spent)
    try:
        result, restarts = _follow(experiment, task, placement, outbox, queue)
        status = "FINISHED" if "model" in result else "FAILED" if result.get("failed") else "KILLED"
        if "superseded" not in result:
            monitors.close(result.get("test", {}).get("dice"))
            outbox.end(status, result.get("left", "stopped"))
    finally:
        monitors.close()
        undelivered = delivery.close(PATIENCE_S)
        if undelivered:
            say(
                f"The tracking server does not answer: {undelivered} records of the run wait in {folder / FOLDER}; "
                f"once it is back: {command()} runs send {run.run_id}"
            )
    if "superseded" in result:
        raise WorkFailed(f"run {run.run_id} goes on elsewhere: another r2d2 train --resume has taken it over")
    if status == "FAILED":
        raise WorkFailed(f"run {run.run_id} failed: {result['left']}")
    if status == "KILLED":
        raise WorkFailed(f"run {run.run_id} was stopped; go on with {command()} train --resume {run.run_id}")
    registered = "{}/{}".format(*delivery.model) if delivery.model else None
    return RunResult(
        run_id=run.run_id,
        model=registered or result["model"],
        model_uri=f"models:/{registered}" if registered else None,
        undelivered=undelivered,
        metrics=result["test"],
        rows=result["rows"],
        best_epoch=result["best_epoch"],
        restarts=restarts,
        reason=result["left"],
        verdict=result["verdict"],
    )


def _follow(
    experiment: config.Experiment, task: Any, placement: Any, outbox: Any, queue: Any
) -> tuple[dict[str, Any], int]:
    """Run the workers to their end under a bar; what rank 0 reported last, and how often workers were lost."""
    from r2d2.cluster import trainer
    from r2d2.cluster.jobs import LeftTheQueue

    restarts: list[str] = []
    with bar(f"Training {experiment.name}", experiment.training.epochs) as advance:

        def on_epoch(row: dict[str, float]) -> None:
            if "epoch" in row and "failed" not in row:
                dice = f"  val dice {row['val/dice']:.3f}" if "val/dice" in row else ""
                advance(f"loss {row['train/loss']:.4f}{dice}", done=int(row["epoch"]))

        def on_restart(cause: str, traceback: str) -> None:
            restarts.append(cause)
            outbox.tag(restarts=len(restarts), **{f"restart.{len(restarts)}": cause})
            outbox.attach_text(f"failures/restart-{len(restarts)}.txt", traceback)
            say(f"A worker was lost ({cause}); going on from the last checkpoint")

        advance("starting the workers", done=0)
        try:
            with queue.leaving():
                result = trainer.fit(task, placement, experiment.cluster.max_restarts, on_epoch, on_restart)
            return result, len(restarts)
        except trainer.TrainingFailed as error:
            outbox.attach_text("failures/last.txt", error.traceback)
            outbox.end("FAILED", str(error))
            raise WorkFailed(
                f"run {task.run_id} failed: {error}; the traceback is its failures/last.txt; "
                f"once mended: {command()} train --resume {task.run_id}"
            ) from error
        except LeftTheQueue:
            outbox.end("KILLED", "stopped before it had its slots")
            raise WorkFailed(
                f"run {task.run_id} was stopped before it had its slots; go on with "
                f"{command()} train --resume {task.run_id}"
            ) from None
        except BaseException as error:
            outbox.end("KILLED", f"{type(error).__name__} in the driver")
            raise


@contextlib.contextmanager
def _leaving_well(stop: Path, queue: Any) -> Iterator[None]:
    """Turn the first SIGTERM or Ctrl-C into a wish that the workers find, and leave for, with a checkpoint."""
    before: dict[int, Any] = {}

    def ask(number: int, frame: object) -> None:  # noqa: ARG001
        if queue.waiting:
            queue.leave()
        stop.parent.mkdir(parents=True, exist_ok=True)
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
    told = ("card.", "promotion.")
    other = [key for key in config.differences(recorded, given) if key not in free and not key.startswith(told)]
    if other:
        raise InputError(f"--resume {run}: its {other[0]} was another; a run goes on with the settings it began with")
    return given


def _can_go_on(run: Any, recorded: dict[str, Any], prepared: str, folder: Path) -> None:
    from r2d2.training.state import Checkpoints

    run.check_unfinished()
    if recorded["hash"] != prepared:
        raise InputError(f"--resume {run.run_id}: the data has changed since the run began; start a new run")
    if Checkpoints(folder).latest() is None and run.has_epochs():
        raise InputError(
            f"--resume {run.run_id}: no checkpoints in {folder}; set R2D2_HOME (or tracking.storage) to where it ran"
        )


def _run_folder(experiment: config.Experiment, run_id: str) -> Path:
    return storage(experiment) / "runs" / run_id
