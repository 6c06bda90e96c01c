"""How many trials of how many workers each: measured on this cluster, with the sweep's own experiment."""

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2 import config
from r2d2.config.sweep import Values
from r2d2.console import bar, say
from r2d2.engine.doctor import require
from r2d2.engine.models import parents, started, weights_file
from r2d2.engine.prepare import described, storage
from r2d2.engine.train import prepare_on
from r2d2.errors import InputError

if TYPE_CHECKING:
    from r2d2.cluster.placement import Placement
    from r2d2.cluster.worker import Task

EPOCHS = 3
"""Of each trial that is measured; the first one, in which the step is traced, does not count."""


@dataclass(frozen=True)
class Layout:
    """A way to share the cluster among trials.

    Attributes:
        trials: How many are trained at a time.
        workers: How many workers each has, `cpus_per_worker` each.
        start_s: From asking for workers to the end of the first epoch, less what an epoch takes.
        epoch_s: What an epoch takes with all of them at work.
        sweep_s: What the whole sweep would take, every trial to its last epoch: early stopping shortens it.
    """

    trials: int
    workers: int
    cpus_per_worker: int
    start_s: float
    epoch_s: float
    sweep_s: float


def layouts(sweep: config.Sweep) -> list[Layout]:
    """Train as many trials side by side as there is room for, with 1, 2, 4, ... workers each, for a few epochs.

    The recipe is the same in all: the logical workers are those of the experiment.

    Returns:
        The layouts, the one that finishes the sweep first at the head.

    Raises:
        InputError: As `tune`; or no layout could be measured.
    """
    require("tensorflow", "horovod")
    from r2d2.cluster.placement import connected, side_by_side

    base = started(sweep.experiment)
    logical = base.training.model_copy(update={"virtual_workers": base.logical_workers})
    found: list[Layout] = []
    with connected(base.cluster.model_copy(update={"workers": 1, "min_workers": None})) as one:
        prepared, split = prepare_on(base, one)
        dataset = described(prepared, split, parents(base))
        counts = [2**power for power in range(int(math.log2(base.logical_workers)) + 1)]
        with bar("Measuring", len(counts)) as advance:
            for workers in counts:
                cluster = base.cluster.model_copy(update={"workers": workers, "min_workers": None})
                experiment = base.model_copy(update={"cluster": cluster, "training": logical})
                try:
                    placement, count = side_by_side(cluster, sweep.number, sweep.concurrent)
                    measured = _measured(sweep, experiment, prepared.folder, dataset, placement, count)
                except InputError as error:  # the cluster has no room for so many, or they cannot be trained
                    if not found:
                        raise
                    say(f"{workers} workers a trial: {error}")
                    break
                found.append(measured)
                advance(f"{count} x {workers} workers: {measured.epoch_s:.1f} s an epoch")
            advance(done=len(counts))
    return sorted(found, key=lambda layout: layout.sweep_s)


def _measured(
    sweep: config.Sweep,
    experiment: config.Experiment,
    prepared: Path,
    dataset: Mapping[str, Any],
    placement: "Placement",
    count: int,
) -> Layout:
    from r2d2.cluster import sweep as rings

    training = experiment.training.model_copy(update={"epochs": EPOCHS})
    short = experiment.model_copy(update={"training": training})
    with tempfile.TemporaryDirectory(dir=storage(experiment), prefix="layout-") as folder:
        desk = _Stopwatch(short, prepared, dataset, placement, count, Path(folder))
        quiet = sweep.model_copy(update={"search": "random", "stopping": "none"})
        rings.run(quiet, desk, placement, count, 0, Path(folder), "layout")
        if desk.problem or not desk.epochs_s:
            raise InputError(
                f"{count} trials of {placement.workers} workers: {desk.problem or 'no epoch was measured'}"
            )
    epoch_s = sum(desk.epochs_s) / len(desk.epochs_s)
    start_s = max(0.0, sum(desk.firsts_s) / len(desk.firsts_s) - epoch_s)
    rounds = math.ceil(sweep.number / count)
    whole = rounds * (start_s + sweep.experiment.training.epochs * epoch_s)
    return Layout(count, placement.workers, placement.cpus_per_worker, start_s, epoch_s, whole)


class _Stopwatch:
    """The desk of trials that are only measured: they belong to no run, and nothing of them stays."""

    def __init__(
        self,
        experiment: config.Experiment,
        prepared: Path,
        dataset: Mapping[str, Any],
        placement: "Placement",
        count: int,
        folder: Path,
    ) -> None:
        self._experiment, self._prepared, self._dataset = experiment, prepared, dataset
        self._placement, self._count, self._folder = placement, count, folder
        self._given = 0
        self._last: dict[int, float] = {}
        self.firsts_s: list[float] = []
        self.epochs_s: list[float] = []
        self.problem = ""

    def next(self) -> "tuple[int, Task] | None":
        from r2d2.cluster.worker import Task
        from r2d2.training.state import Checkpoints

        if self.empty():
            return None
        number, folder, now = self._given, self._folder / "runs" / str(self._given), time.time()
        self._given += 1
        self._last[number] = time.monotonic()
        weights = weights_file(self._experiment)
        return number, Task(
            experiment=self._experiment.to_yaml(),
            run_id=f"layout-{number}",
            prepared=str(self._prepared),
            run_folder=str(folder),
            owner=Checkpoints(folder).take_over(),
            split={part: list(names) for part, names in self._dataset["split"].items()},
            threads=self._placement.cpus_per_worker,
            began=now,
            asked=now,
            git="",
            packages={},
            parents=[],
            weights=str(weights) if weights else None,
            trial=True,
        )

    def empty(self) -> bool:
        return self._given == self._count

    leaving = False

    def known(self) -> Mapping[int, Mapping[int, float]]:
        return {}

    def values(self, number: int) -> Values:  # noqa: ARG002
        return {}

    def look(self) -> None:
        pass

    def epoch(self, number: int, row: dict[str, float]) -> None:
        now = time.monotonic()
        (self.firsts_s if row["epoch"] == 1 else self.epochs_s).append(now - self._last[number])
        self._last[number] = now

    def restarted(self, number: int, kind: str, said: str, traceback: str) -> None:
        pass

    def changed(self, number: int, values: Values, teacher: int) -> None:
        pass

    def ended(self, number: int, result: dict[str, Any]) -> None:  # noqa: ARG002
        if result.get("failed"):
            self.problem = result["left"]

    def failed(self, number: int, kind: str, said: str, traceback: str) -> None:  # noqa: ARG002
        self.problem = f"{kind}: {said}"
