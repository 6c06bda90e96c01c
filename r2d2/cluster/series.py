"""Rings that do one run after another: processes, TensorFlow and Horovod are started once for all of them.

A ring has a folder, its box, in which its driver lays task after task, each in a file of its number; the file without a
task is the last one.
"""

import contextlib
import json
import logging
import time
from collections import Counter
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ray import tune
from ray.train import FailureConfig, RunConfig
from ray.tune import TuneConfig, Tuner

from r2d2.cluster import worker
from r2d2.cluster.placement import Placement
from r2d2.cluster.rings import RingTrainer
from r2d2.cluster.sweep import TIME, Left, Tell, cause_of, name_of
from r2d2.cluster.worker import Task
from r2d2.errors import WorkFailed
from r2d2.files import whole_file

if TYPE_CHECKING:
    from r2d2.training.ring import Ring

LOOK_S = 0.05


class Desk(Protocol):
    """What gives out the runs and hears of them, in the thread that calls `run`; rings are told by number."""

    def next(self, ring: int) -> Task | None:
        """What a ring does next; None if there is no more for it."""

    def empty(self) -> bool:
        """Whether there is no run left to be given out."""

    @property
    def leaving(self) -> bool:
        """Whether the rings were asked to leave, and none that waits for slots is to begin."""

    def look(self) -> None:
        """Called every now and then."""

    def epoch(self, ring: int, row: dict[str, Any]) -> None:
        """The run of a ring has ended an epoch with these metrics."""

    def ended(self, ring: int, result: dict[str, Any]) -> None:
        """The run of a ring has ended, with what its worker reported last."""

    def failed(self, ring: int, kind: str, said: str, traceback: str) -> None:
        """A ring was lost, for this error, and the attempt at its run with it."""


def run(desk: Desk, placement: Placement, rings: int, wait_minutes: float, storage: Path, name: str) -> None:
    """Do runs until the desk has no more, or was asked to leave; rings that were lost are started anew.

    Args:
        desk: Gives the runs out and hears of them.
        placement: What one ring takes of the cluster.
        rings: How many there are side by side.
        wait_minutes: How long they wait for slots that the cluster lacks.
        storage: The folder, common to all nodes, that holds Ray's own files and the boxes.
        name: What these are called there.

    Raises:
        WorkFailed: The cluster has lacked slots for too long.
    """
    for noisy in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    while not (desk.empty() or desk.leaving):
        boxes = storage / name / f"boxes-{time.time_ns()}"
        given: list[dict[str, Any]] = []
        for ring in range(rings):
            task = desk.next(ring)
            if task is None:
                break
            given.append({"number": ring, "box": str(boxes / str(ring))})
            lay(boxes / str(ring), 0, task)
        if not given:
            return
        trainer = RingTrainer(
            _work,
            scaling_config=placement.scaling(),
        )
        tell = _Tell(desk, placement, wait_minutes, boxes)
        tuner = Tuner(
            trainer,
            param_space={"train_loop_config": tune.grid_search(given)},
            tune_config=TuneConfig(trial_name_creator=name_of),
            run_config=RunConfig(
                name=f"{name}-{boxes.name}",
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=0),
                callbacks=[tell],
                verbose=0,
            ),
        )
        with contextlib.suppress(Left):
            tuner.fit()
        if tell.problem:
            raise WorkFailed(tell.problem)


def lay(box: Path, number: int, task: Task | None) -> None:
    """Lay a ring's next task into its box; None is the last word."""
    box.mkdir(parents=True, exist_ok=True)
    with whole_file(box / f"{number}.json") as beside:
        beside.write_text(json.dumps(asdict(task) if task else None))


def _work(loop: dict[str, Any]) -> None:
    """One worker of a ring, from task to task."""
    from r2d2.training import device

    began, box = time.time(), Path(loop["box"])
    task = _found(box, 0)
    assert task is not None
    ring = worker.join(task)
    try:
        for number in count(1):
            worker.do(task, ring, began)
            device.forget()
            task = _next(box, number, ring)
            began = time.time()
            if task is None:
                return
    finally:
        ring.close()


def _next(box: Path, number: int, ring: "Ring") -> Task | None:
    """Wait for a task: rank 0 looks, the ring spreads what it found. Without its driver Ray ends this process."""
    while ring.rank == 0 and not (box / f"{number}.json").exists():
        time.sleep(LOOK_S)
    return ring.broadcast_object(_found(box, number) if ring.rank == 0 else None)


def _found(box: Path, number: int) -> Task | None:
    values = json.loads((box / f"{number}.json").read_text())
    return Task(**values) if values else None


class _Tell(Tell):
    """Tells the desk what becomes of the runs, and rings what to do next."""

    def __init__(self, desk: Desk, placement: Placement, wait_minutes: float, boxes: Path) -> None:
        super().__init__(desk, placement, wait_minutes)  # type: ignore[arg-type]
        self._runs, self._boxes = desk, boxes
        self._laid: Counter[int] = Counter()

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:  # noqa: ARG002
        ring = int(str(trial))
        if "left" not in result and "superseded" not in result:
            if TIME in result:
                self._runs.epoch(ring, result)
            return
        self._runs.ended(ring, dict(result))
        self._laid[ring] += 1
        lay(self._boxes / str(ring), self._laid[ring], self._runs.next(ring))

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Nothing: a ring has its first task already."""

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Nothing: its runs have been told one by one."""

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:  # noqa: ARG002
        self._runs.failed(int(str(trial)), *cause_of(trial))
