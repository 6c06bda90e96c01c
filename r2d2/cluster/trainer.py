"""Train under Ray: place the workers with HorovodTrainer, follow their epochs, go on with what the cluster has left."""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig
from ray.train.base_trainer import TrainingFailedError
from ray.tune import Callback

from r2d2 import config
from r2d2.cluster import slots
from r2d2.cluster.leaving import STOP, WAITED
from r2d2.cluster.placement import Placement
from r2d2.cluster.rings import RingTrainer
from r2d2.cluster.worker import TIMELINE, Task, work
from r2d2.errors import InputError
from r2d2.tracking.outbox import FOLDER, seal
from r2d2.training.state import Checkpoints, Superseded

Row = dict[str, float]


class TrainingFailed(RuntimeError):  # noqa: N818
    """The run cannot go on: the last cause in one line, and its traceback."""

    def __init__(self, cause: str, traceback: str) -> None:
        super().__init__(cause)
        self.traceback = traceback


def fit(
    task: Task,
    cluster: config.Cluster,
    placement: Placement,
    on_epoch: Callable[[Row], None],
    on_restart: Callable[[str, str], None],
    on_workers: Callable[[int], None],
    on_wait: Callable[[str], None],
) -> dict[str, Any]:
    """Run the workers to the end of the training; when some are lost, go on from the last checkpoint.

    Ray would start as many again as there were, and wait for a host that is gone for ever. So each attempt is one of
    Ray's trainings by itself, with as many workers as the cluster has room for then.

    Args:
        task: What every worker does, as the first attempt.
        cluster: How many workers, how few at least, how often they may be lost, how long to wait for slots.
        placement: How many there are at first and what each one gets.
        on_epoch: Called here with the metrics of every epoch.
        on_restart: Called here with the cause, in one line and as a traceback, when workers were lost.
        on_workers: Called here with the number of workers that the run holds from now on; 0 between attempts.
        on_wait: Called here with what the run waits for, and with an empty text when it waits no more.

    Returns:
        What rank 0 reported last; `superseded` if another driver has taken the run over; why it `left` if it was asked
        to while it waited.

    Raises:
        TrainingFailed: A worker failed once too often, or slots were waited for in vain.
        InputError: A worker refused what it was given.
    """
    # What went wrong is told by `on_restart` and by the error raised here, once.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    run_folder, restarts = Path(task.run_folder), 0
    checkpoints, stop = Checkpoints(run_folder), run_folder / STOP
    while True:
        on_workers(placement.workers)
        lost = ""
        try:
            return _attempt(task, placement, on_epoch)
        except TrainingFailedError as error:
            lost = str(error.__cause__ or error)
        except _NoRoom:
            pass
        on_workers(0)
        # The attempt is over before its ranks are: one on a host that was cut off goes on until it hears of it.
        try:
            task = replace(task, owner=checkpoints.take_over(task.owner))
        except Superseded:
            return {"superseded": True}
        seal(run_folder / FOLDER, "attempt-*")
        (checkpoints.folder / TIMELINE).unlink(missing_ok=True)
        if lost:
            kind, said = cause(lost)
            if kind == InputError.__name__:
                raise InputError(said)
            if restarts == cluster.max_restarts:
                raise TrainingFailed(f"{kind}: {said}", lost)
            restarts += 1
            on_restart(f"{kind}: {said}", lost)
        try:
            placed = slots.wait(cluster, placement, on_wait, lambda: stop.exists() or checkpoints.superseded)
        except slots.SlotsMissing as error:
            raise TrainingFailed(str(error), lost or str(error)) from None
        if placed is None:
            return {"superseded": True} if checkpoints.superseded else {"left": WAITED}
        placement = placed


def _attempt(task: Task, placement: Placement, on_epoch: Callable[[Row], None]) -> dict[str, Any]:
    trainer = RingTrainer(
        work,
        train_loop_config=asdict(task),
        scaling_config=placement.scaling(),
        run_config=RunConfig(
            name=task.run_id,
            storage_path=str(Path(task.run_folder).parent.parent / "ray"),
            failure_config=FailureConfig(max_failures=0),
            callbacks=[_Follow(placement, Path(task.run_folder) / STOP, on_epoch)],
            verbose=0,
        ),
    )
    return trainer.fit().metrics or {}


class _NoRoom(Exception):  # noqa: N818
    """Workers are not placed and never will be: a node was lost, which Ray would wait for, or the run leaves."""


class _Follow(Callback):
    """Hands Tune's events on, and looks whether what has not been placed yet can be, and still should."""

    def __init__(self, placement: Placement, stop: Path, on_epoch: Callable[[Row], None]) -> None:
        self.placement, self.stop = placement, stop
        self.on_epoch = on_epoch
        self.looked = time.monotonic()

    def __getstate__(self) -> dict:
        """Nothing: Ray copies the whole run configuration to the trainer's process, where nobody is told anything."""
        return {}

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:  # noqa: ARG002
        if any(trial.status == "PENDING" for trial in trials) and time.monotonic() - self.looked >= slots.LOOK_S:
            self.looked = time.monotonic()
            if self.stop.exists() or slots.total(self.placement) < self.placement.workers:
                raise _NoRoom

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:  # noqa: ARG002
        self.on_epoch(result)


def cause(text: str) -> tuple[str, str]:
    """The last error that a traceback names: its class, and what it says in one line."""
    named = re.findall(
        r"^(?:\w+\.)*(\w*(?:Error|Exception|Superseded|Interrupt)\w*)(?:\([\w.]*\))?: *(.*)$", text, re.M
    )
    kind, said = named[-1] if named else ("Error", (text.strip().splitlines() or ["no message"])[-1])
    if "Horovod has been shut down" in text:  # deep in a graph's error, which says nothing in its first line
        said = "the ring broke: another rank is gone, or was not heard of for 30 s"
    return kind, said[:500]
