"""Train an experiment: from its file to a registered model."""

import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from r2d2 import config
from r2d2.console import bar, command, say
from r2d2.engine.doctor import require
from r2d2.engine.driven import Driven, leaving_well, run_folder
from r2d2.engine.models import parents, started
from r2d2.engine.prepare import described, prepare, storage
from r2d2.errors import InputError, WorkFailed

if TYPE_CHECKING:
    from r2d2.cluster.monitors import Monitors
    from r2d2.cluster.placement import Placement
    from r2d2.cluster.worker import Task
    from r2d2.data.prepare import Prepared
    from r2d2.tracking.runs import Run

ELSEWHERE = {
    *("cluster.address", "cluster.cpus_per_worker", "cluster.gpus_per_worker", "cluster.max_restarts"),
    *("cluster.min_workers", "cluster.wait_minutes"),
    *("tracking.uri", "tracking.storage", "tracking.monitor_s", "training.xla"),
}
"""Settings that may change when a run is resumed: where it runs, not what it computes. What is written on the model's
card and asked of it later (`card`, `promotion`) may, too."""


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
        restarts: How often the run has gone on after workers or its driver were lost.
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
        WorkFailed: The training diverged, lost its workers more often than `cluster.max_restarts`, or waited for slots
            for longer than `cluster.wait_minutes`.
    """
    began = time.time()
    if experiment is None and resume is None:
        raise InputError("nothing to train: give an experiment file, or --resume RUN")
    require("tensorflow", "horovod")
    from r2d2.cluster.placement import connected

    # MLflow's import takes a second, in which Ray's processes may start.
    Thread(target=import_module, args=("r2d2.tracking.runs",), daemon=True).start()
    run = None
    if resume is not None:
        from r2d2.tracking import runs, store

        run = runs.find(store.connect(store.resolve(experiment.tracking.uri if experiment else None)), resume)
        run.check_resumable("train")
        experiment = _resumed(runs.read_experiment(run), started(experiment) if experiment else None, resume)
    assert experiment is not None
    experiment = started(experiment)
    with connected(experiment.cluster) as placement:
        from r2d2.tracking import runs, store

        uri = store.resolve(experiment.tracking.uri)
        store.check(uri)
        prepared, split = prepare_on(experiment, placement)
        if run is None:
            dataset = described(prepared, split, parents(experiment))
            run = runs.create(store.connect(uri), experiment, dataset)
        else:
            dataset = runs.read_dataset(run)
            _can_go_on(run, dataset, prepared.key, run_folder(experiment, run.run_id))
        say(f"Run {run.run_id}" + (f"  {run.page}" if run.page else ""))
        return fit(experiment, run, prepared.folder, dataset, placement, began)


def prepare_on(experiment: config.Experiment, placement: "Placement") -> tuple["Prepared", dict[str, tuple[str, ...]]]:
    """What `prepare` gives; on a cluster of several nodes all of them prepare, each CPU a case.

    Hosts that see neither the storage nor the data cannot: each of them prepares for itself, if it trains.
    """
    from r2d2.cluster import tasks

    path, store = experiment.data.path, storage(experiment)
    if placement.nodes == 1:
        return prepare(experiment)
    blind = tasks.blind_hosts(store, path if isinstance(path, Path) else None)
    if blind:
        say(f"{', '.join(blind)}: no {store} and {path} there; this machine prepares the data by itself")
    return prepare(experiment, None if blind else tasks.spread)


def fit(
    experiment: config.Experiment,
    run: "Run",
    prepared: Path,
    dataset: dict[str, Any],
    placement: "Placement",
    began: float,
) -> RunResult:
    """Train a run that was created, or go on with it, to its registered model.

    Args:
        experiment: The run's.
        run: The run.
        prepared: The folder of its prepared data.
        dataset: What it records of them (`described`).
        placement: What it takes of the cluster, which is connected.
        began: When its driver began, in seconds of the clock.

    Raises:
        WorkFailed: As `train`.
    """
    from r2d2.cluster.jobs import Queue
    from r2d2.cluster.monitors import Monitors

    driven = Driven(run, run_folder(experiment, run.run_id))
    task = driven.task(experiment, prepared, dataset, placement.cpus_per_worker, began)
    monitors = Monitors(experiment.tracking.monitor_s, driven.outbox, driven.began_s, placement, driven.spent)
    try:
        with Queue(driven.on_queue), leaving_well(driven.leave):
            result = _follow(experiment, task, placement, driven, monitors)
        status = "FINISHED" if "model" in result else "FAILED" if result.get("failed") else "KILLED"
        if "superseded" not in result:
            monitors.close(result.get("test", {}).get("dice"))
            result["verdict"] = driven.end(status, driven.why(result.get("left", "stopped")))
    finally:
        monitors.close()
        undelivered = driven.close()
    if "superseded" in result:
        raise WorkFailed(f"run {run.run_id} goes on elsewhere: another r2d2 train --resume has taken it over")
    if status == "FAILED":
        raise WorkFailed(f"run {run.run_id} failed: {result['left']}")
    if status == "KILLED":
        raise WorkFailed(f"run {run.run_id} was stopped; go on with {_resumed_by(run)}")
    registered = "{}/{}".format(*driven.delivery.model) if driven.delivery.model else None
    return RunResult(
        run_id=run.run_id,
        model=registered or result["model"],
        model_uri=f"models:/{registered}" if registered else None,
        undelivered=undelivered,
        metrics=result["test"],
        rows=result["rows"],
        best_epoch=result["best_epoch"],
        restarts=driven.restarts,
        reason=driven.why(result["left"]),
        verdict=result["verdict"],
    )


def _follow(
    experiment: config.Experiment, task: "Task", placement: "Placement", driven: Driven, monitors: "Monitors"
) -> dict[str, Any]:
    """Run the workers to their end under a bar; what rank 0 reported last."""
    from r2d2.cluster import trainer

    outbox, cluster = driven.outbox, experiment.cluster
    with bar(f"Training {experiment.name}", experiment.training.epochs) as advance:

        def on_epoch(row: dict[str, float]) -> None:
            if "epoch" in row and "failed" not in row:
                dice = f"  val dice {row['val/dice']:.3f}" if "val/dice" in row else ""
                advance(f"loss {row['train/loss']:.4f}{dice}", done=int(row["epoch"]))

        def on_restart(cause: str, traceback: str) -> None:
            driven.restarted(cause, traceback)
            say(f"A worker was lost ({cause}); going on from the last checkpoint")

        def on_workers(workers: int) -> None:
            monitors.hold(workers)
            if 0 < workers < cluster.workers:
                say(f"{workers} of {cluster.workers} workers: the cluster has slots for no more")

        def on_wait(what: str) -> None:
            driven.waits("trainer", what)
            if what:
                say(f"Waiting {what}; for {cluster.wait_minutes:g} minutes at most")

        advance("starting the workers", done=0)
        try:
            return trainer.fit(task, cluster, placement, on_epoch, on_restart, on_workers, on_wait)
        except InputError as error:
            driven.end("FAILED", str(error))
            raise
        except trainer.TrainingFailed as error:
            outbox.attach_text("failures/last.txt", error.traceback)
            driven.end("FAILED", str(error))
            raise WorkFailed(
                f"run {task.run_id} failed: {error}; the traceback is its failures/last.txt; "
                f"once mended: {_resumed_by(driven.run)}"
            ) from error
        except BaseException as error:
            driven.end("KILLED", f"{type(error).__name__} in the driver")
            raise


def _resumed_by(run: "Run") -> str:
    """The command that goes on with a run, or with the sweep whose best trial it is."""
    return f"{command()} {'tune' if run.whole else 'train'} --resume {run.whole or run.run_id}"


def _resumed(recorded: config.Experiment, given: config.Experiment | None, run: str) -> config.Experiment:
    """The recorded experiment, or a given one that differs from it in nothing but ELSEWHERE."""
    if given is None:
        return recorded
    # The same logical workers do the same on any number of real ones.
    same = recorded.logical_workers == given.logical_workers
    free = ELSEWHERE | ({"cluster.workers", "training.virtual_workers"} if same else set())
    told = ("card.", "promotion.")
    other = [key for key in config.differences(recorded, given) if key not in free and not key.startswith(told)]
    if other:
        raise InputError(f"--resume {run}: its {other[0]} was another; a run goes on with the settings it began with")
    return given


def _can_go_on(run: Any, recorded: dict[str, Any], prepared: str, folder: Path) -> None:
    from r2d2.training.state import Checkpoints

    if recorded["hash"] != prepared:
        raise InputError(f"--resume {run.run_id}: the data has changed since the run began; start a new run")
    if Checkpoints(folder).latest() is None and run.has_epochs():
        raise InputError(
            f"--resume {run.run_id}: no checkpoints in {folder}; set R2D2_HOME (or tracking.storage) to where it ran"
        )
