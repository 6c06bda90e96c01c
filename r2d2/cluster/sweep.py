"""Trials side by side on the cluster under Ray Tune, each a ring of workers; the worse are stopped early, or taught."""

import contextlib
import json
import logging
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from ray import train, tune
from ray.train import FailureConfig, RunConfig
from ray.tune import Callback, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining
from ray.tune.search import Searcher

from r2d2 import config
from r2d2.cluster import slots, teaching
from r2d2.cluster.placement import Placement
from r2d2.cluster.rings import RingTrainer
from r2d2.cluster.trainer import cause
from r2d2.cluster.worker import Task, work
from r2d2.config.sweep import Values
from r2d2.errors import WorkFailed
from r2d2.files import whole_file

TIME, SCORE = "epoch", "val/dice"
"""What a trial's age is counted in, and what it is judged by."""
CONTINUE = FIFOScheduler.CONTINUE
TASK = "task.json"
"""The file in a trial's run folder that says what its workers do: Tune is told no more than where it is."""


class Desk(Protocol):
    """What gives out the trials and hears of them, in the thread that calls `run`."""

    def next(self) -> tuple[int, Task] | None:
        """The next trial's number and what its workers do; None if there is none for now."""

    def empty(self) -> bool:
        """Whether there will never be another one."""

    @property
    def leaving(self) -> bool:
        """Whether the trials were asked to leave, and none that waits for slots is to begin."""

    def known(self) -> Mapping[int, Mapping[int, float]]:
        """What is known of the trials' scores from before, by number and epoch."""

    def values(self, number: int) -> Values:
        """What a trial changes of the base experiment now."""

    def look(self) -> None:
        """Called every now and then."""

    def epoch(self, number: int, row: dict[str, float]) -> None:
        """A trial has ended an epoch with these metrics."""

    def restarted(self, number: int, kind: str, said: str, traceback: str) -> None:
        """A trial lost a worker, for this error, and goes on from its last checkpoint."""

    def changed(self, number: int, values: Values, teacher: int) -> None:
        """A trial goes on with another one's weights, and with these values."""

    def ended(self, number: int, result: dict[str, Any]) -> None:
        """A trial has ended, with what was reported of it last."""

    def failed(self, number: int, kind: str, said: str, traceback: str) -> None:
        """A trial's workers were lost, for this error."""


def run(
    sweep: config.Sweep, desk: Desk, placement: Placement, at_a_time: int, max_restarts: int, storage: Path, name: str
) -> None:
    """Train trials until the desk has no more.

    Args:
        sweep: How they are stopped or taught.
        desk: Gives them out and hears of them.
        placement: What one of them takes of the cluster.
        at_a_time: How many are trained side by side.
        max_restarts: How often one of a population may lose a worker; of others the desk keeps count.
        storage: The folder, common to all nodes, that holds Ray's own files.
        name: What these are called there.

    Raises:
        WorkFailed: The cluster has lacked slots for `cluster.wait_minutes`.
    """
    if desk.empty():  # all had ended when the sweep was killed
        return
    for noisy in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    # Not every report has a score: validation may be rarer than epochs are.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    space: dict[str, Any] = {}
    if sweep.search == "pbt":  # which wants to know all of its population first
        population = []
        while (one := desk.next()) is not None:
            population.append(_loop(*one, desk.values(one[0])))
        tasks = {name: path for loop in population for name, path in loop["tasks"].items()}
        space["train_loop_config"] = tune.grid_search([loop | {"tasks": tasks} for loop in population])
        how = TuneConfig(scheduler=_pbt(sweep), trial_name_creator=name_of)
    else:
        how = TuneConfig(
            search_alg=_FromDesk(desk),
            scheduler=_Asha(sweep, desk) if sweep.stopping == "asha" else FIFOScheduler(),
            num_samples=-1,
            max_concurrent_trials=at_a_time,
            trial_name_creator=name_of,
        )
    trainer = RingTrainer(
        _work,
        scaling_config=placement.scaling(),
    )
    tell = Tell(desk, placement, sweep.experiment.cluster.wait_minutes)
    tuner = Tuner(
        trainer,
        param_space=space,
        tune_config=how,
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            # Ray would start a trial again as the same attempt; the desk gives it out again, as a new one. Of a
            # population all have their place from the beginning.
            failure_config=FailureConfig(max_failures=max_restarts if sweep.search == "pbt" else 0),
            callbacks=[tell],
            verbose=0,
        ),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consider boosting PBT")  # by keeping processes, which Train cannot
        with contextlib.suppress(Left):
            tuner.fit()
    if tell.problem:
        raise WorkFailed(f"{tell.problem}; once they are back: tune --resume {name}")


class Left(Exception):  # noqa: N818
    """There are only trials left that wait for slots, and shall not any more."""


def _loop(number: int, task: Task, values: Values) -> dict[str, Any]:
    """A trial as Tune knows it."""
    path = Path(task.run_folder) / TASK
    with whole_file(path) as beside:
        beside.write_text(json.dumps(asdict(task)))
    return {"number": number, "tasks": {str(number): str(path)}, "values": values}


def name_of(trial: Any) -> str:
    """A trial's name, which is its number: of a trial that learns Tune replaces all of the configuration."""
    return str(trial.config["train_loop_config"]["number"])


def _work(loop: dict[str, Any]) -> None:
    """One worker of one trial."""
    task = Task(**json.loads(Path(loop["tasks"][train.get_context().get_trial_name()]).read_text()))
    if len(loop["tasks"]) > 1:
        experiment = config.with_values(config.parse(task.experiment), loop["values"])
        task = replace(task, experiment=experiment.to_yaml(), teaches=True, donor=teaching.donor(task.run_folder))
    work(asdict(task))


def cause_of(trial: Any) -> tuple[str, str, str]:
    """Why it failed last: the error's class, what it says in one line, and the traceback."""
    text = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
    return *cause(text), text


class _FromDesk(Searcher):
    """Gives Tune the desk's trials."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
        if self._desk.empty():
            return Searcher.FINISHED
        one = self._desk.next()
        return {"train_loop_config": _loop(*one, self._desk.values(one[0]))} if one else None

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: the desk hears of it by `Tell`, with the cause."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is on the disk already."""
        Path(checkpoint_path).touch()

    def __getstate__(self) -> dict:
        """Nothing, likewise."""
        return {}


class _Asha(FIFOScheduler):
    """Tune's asynchronous successive halving among the trials of each group, those from before among them."""

    def __init__(self, sweep: config.Sweep, desk: Desk) -> None:
        super().__init__()
        self._sweep, self._desk = sweep, desk
        self._halvings: dict[str, ASHAScheduler] = {}
        self._seen: set[str] = set()
        for number, scores in desk.known().items():
            for epoch, score in sorted(scores.items()):
                self.on_trial_result(None, number, {TIME: epoch, SCORE: score})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:  # noqa: ARG002
        if result.get(TIME, 0) >= self._sweep.experiment.training.epochs:
            return CONTINUE  # it ends by itself, with its last checkpoint written
        number = SimpleNamespace(trial_id=str(trial))
        halving = self._halving(str(self._sweep.group(self._desk.values(int(number.trial_id)))))
        if number.trial_id not in self._seen:
            self._seen.add(number.trial_id)
            halving.on_trial_add(None, number)
        return halving.on_trial_result(None, number, result)

    def _halving(self, group: str) -> ASHAScheduler:
        epochs = self._sweep.experiment.training.epochs
        if group not in self._halvings:
            self._halvings[group] = ASHAScheduler(
                time_attr=TIME,
                metric=SCORE,
                mode="max",
                max_t=epochs,
                grace_period=self._sweep.first_rung,
                reduction_factor=self._sweep.asha.reduction,
            )
        return self._halvings[group]

    def __getstate__(self) -> dict:
        """Nothing: what it knows is in the study."""
        return {}


def _pbt(sweep: config.Sweep) -> PopulationBasedTraining:
    """Tune's population-based training, which never leaves a setting's range."""

    def domain(dimension: config.Dimension) -> Any:
        if dimension.choice is not None:
            return [*dimension.choice]
        return tune.uniform(*dimension.uniform) if dimension.uniform else tune.loguniform(*dimension.log_uniform or ())

    def within(loop: dict[str, Any]) -> dict[str, Any]:
        values = loop["train_loop_config"]["values"]
        for key, (dimension,) in sweep.space.items():
            if dimension.choice is None:
                low, high = dimension.ends
                values[key] = min(high, max(low, values[key]))
        return loop

    return PopulationBasedTraining(
        time_attr=TIME,
        metric=SCORE,
        mode="max",
        perturbation_interval=sweep.pbt.every_epochs,
        hyperparam_mutations={
            "train_loop_config": {"values": {key: domain(ranges[0]) for key, ranges in sweep.space.items()}}
        },
        quantile_fraction=sweep.pbt.quantile,
        resample_probability=sweep.pbt.resample,
        custom_explore_fn=within,
        log_config=False,
        require_attrs=False,  # not every report has a score
    )


class Tell(Callback):
    """Tells the desk what becomes of the trials."""

    def __init__(self, desk: Desk, placement: Placement, wait_minutes: float) -> None:
        self._desk, self._placement, self._wait_minutes = desk, placement, wait_minutes
        self._stuck_since: float | None = None
        self._looked = 0.0
        self.problem = ""
        self._loops: dict[str, tuple[int, Values]] = {}

    def __getstate__(self) -> dict:
        """Nothing: Ray copies the whole run configuration to the trials' processes, where nobody is told anything."""
        return {}

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:  # noqa: ARG002
        """Now and then: what nobody could place for too long, or what is asked to leave while it waits, is let go."""
        self._desk.look()
        if any(trial.status == "RUNNING" for trial in trials) or not any(trial.status == "PENDING" for trial in trials):
            self._stuck_since = None
            return
        if self._desk.leaving:
            raise Left
        now = time.monotonic()
        if now - self._looked < slots.LOOK_S:
            return
        self._looked = now
        if slots.total(self._placement) >= self._placement.workers:  # others have them: Ray's queue
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since >= 60 * self._wait_minutes:
            self.problem = (
                f"the cluster lacks slots for a trial of {self._placement.workers} workers for "
                f"{self._wait_minutes:g} minutes (cluster.wait_minutes)"
            )
            raise Left

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:  # noqa: ARG002
        """A worker has reported."""
        if TIME in result and "left" not in result:
            self._desk.epoch(int(str(trial)), result)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:  # noqa: ARG002
        """A trial begins, or begins anew as another one."""
        loop = trial.config["train_loop_config"]
        teacher, values = self._loops.setdefault(str(trial), (loop["number"], loop["values"]))
        if (teacher, values) != (loop["number"], loop["values"]):
            self._loops[str(trial)] = loop["number"], loop["values"]
            self._desk.changed(int(str(trial)), loop["values"], loop["number"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:  # noqa: ARG002
        """A trial has ended."""
        self._desk.ended(int(str(trial)), dict(trial.last_result or {}))

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:  # noqa: ARG002
        """A trial was lost and comes again."""
        self._desk.restarted(int(str(trial)), *cause_of(trial))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:  # noqa: ARG002
        """A trial was lost."""
        self._desk.failed(int(str(trial)), *cause_of(trial))
