"""A sweep: many trials of an experiment, the best of them tested and registered."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2 import config
from r2d2.config.sweep import Values
from r2d2.console import live_table, say
from r2d2.engine.doctor import require
from r2d2.engine.driven import leaving_well, run_folder
from r2d2.engine.many import Many, Part, only_driver, unfinished
from r2d2.engine.models import parents, started
from r2d2.engine.prepare import described, storage
from r2d2.engine.train import RunResult, fit, prepare_on
from r2d2.errors import InputError, WorkFailed

if TYPE_CHECKING:
    from r2d2.cluster.placement import Placement
    from r2d2.cluster.search import Outcome, Trial
    from r2d2.cluster.worker import Task
    from r2d2.tracking.runs import Run

REPORT = "report"
"""The folder in a sweep's run folder with its table and pictures."""


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep.

    Attributes:
        run_id: Its MLflow run; the trials' runs are below it.
        trials: A row a trial: `number`, `values`, `outcome`, `epochs`, `val/dice` (its best), `run_id`, `reason`,
            `seconds`.
        best: The number of the trial with the best validation Dice.
        importance: How much of the scores' variance each setting explains.
        model: What training the best one to its end gave, if that was asked for.
        report: The folder of the table, the best settings as an experiment file, and the pictures.
        recipes: For each value of `for_each` its `value`, the `trial` with the best validation Dice, that one's
            `values`, its `val/dice`, and how many hundredths of Dice it lies below the first one's (`points_lost`).
    """

    run_id: str
    trials: list[dict[str, Any]]
    best: int
    importance: dict[str, float]
    model: RunResult | None
    report: Path
    recipes: list[dict[str, Any]]


def tune(sweep: config.Sweep | None, resume: str | None = None) -> SweepResult:
    """Run a sweep's trials, then train the best one to its end, test and register it.

    Args:
        sweep: What to do; may be absent with `resume`.
        resume: A sweep that did not finish: its trials go on from their checkpoints, with its own settings.

    Raises:
        InputError: Before anything is recorded: data, settings or cluster do not fit.
        WorkFailed: No trial came to a score, or the sweep was asked to leave.
    """
    if sweep is None and resume is None:
        raise InputError("nothing to tune: give a sweep file, or --resume SWEEP")
    require("tensorflow", "horovod")
    from r2d2.cluster.placement import connected, side_by_side
    from r2d2.tracking import runs, store

    run = None
    if resume is not None:
        run, sweep = unfinished("tune", resume, sweep, runs.read_sweep)
    assert sweep is not None
    base = started(sweep.experiment)
    uri = store.resolve(base.tracking.uri)
    store.check(uri)
    with connected(base.cluster) as alone:
        placement, at_a_time = side_by_side(base.cluster, sweep.number, sweep.concurrent)
        prepare_on(base, placement)  # whatever is wrong with the data is wrong with all trials
        if run is None:
            run = runs.create_sweep(store.connect(uri), sweep)
        with only_driver(run_folder(base, run.run_id), f"sweep {run.run_id}"):
            return _Sweep(sweep, run, placement, at_a_time).run(alone)


class _Sweep(Many["_Running"]):
    """A sweep that goes on: the desk of its trials, see `r2d2.cluster.sweep.Desk`."""

    def __init__(self, sweep: config.Sweep, run: "Run", placement: "Placement", at_a_time: int) -> None:
        from r2d2.cluster.search import Study
        from r2d2.tracking import runs

        self.sweep, self.placement, self.at_a_time = sweep, placement, at_a_time
        folder = run_folder(sweep.experiment, run.run_id)
        self.study: Study = Study(sweep, folder)
        before = self.study.trials()
        runs.drop_unknown(run, {trial.run_id for trial in before} | {self.study.finish().get("run_id")})
        self._known = {trial.number: trial.scores for trial in before}
        self._unfinished = [trial for trial in before if trial.outcome == "running"]
        self._told_away = False
        super().__init__(f"sweep {run.run_id}", "tune", run, folder)

    def run(self, alone: "Placement") -> SweepResult:
        """Run the trials, then the best one to its end.

        Args:
            alone: What that one takes of the cluster.
        """
        from r2d2.cluster import sweep as rings
        from r2d2.cluster.jobs import Queue
        from r2d2.cluster.monitors import Monitors
        from r2d2.cluster.placement import Placement

        one, sweep, base = self.placement, self.sweep, self.sweep.experiment
        all_workers = Placement(self.at_a_time * one.workers, one.cpus_per_worker, one.gpus_per_worker, one.nodes)
        driven, sweep_id = self._driven, self._driven.run.run_id
        monitors = Monitors(base.tracking.monitor_s, driven.outbox, driven.began_s, all_workers, driven.spent)
        how = f"{self.at_a_time} at a time, {one.workers} x {one.cpus_per_worker} CPU each"
        say(f"Sweep {sweep_id}: {sweep.number} trials, {how}")
        with self._ending("all trials done"), contextlib.closing(monitors):
            with live_table(self._table) as self._show, Queue(say, own=True), leaving_well(self._leave):
                restarts, storage_folder = base.cluster.max_restarts, storage(base) / "ray"
                rings.run(sweep, self, one, self.at_a_time, restarts, storage_folder, sweep_id)
            self._check_left()
            best = self._best()
            if best is None:
                first = next((trial.reason for trial in self.study.trials() if trial.reason), "none was begun")
                raise WorkFailed(f"sweep {sweep_id}: no trial came to a validation Dice; the first one: {first}")
            report, importance = self._report(best)
            monitors.close()
            model = self._finish(best, alone)
            if model is not None:
                driven.outbox.tag(model=model.model)
                driven.outbox.log({f"test/{key}": value for key, value in model.metrics.items()}, once="test")
        rows = [_row(trial) for trial in self.study.trials()]
        return SweepResult(sweep_id, rows, best.number, importance, model, report, self._recipes())

    # What the trials' runner asks and tells, in its thread.

    def next(self) -> "tuple[int, Task] | None":
        """The next trial, with a run of its own: one from before that did not end, or a new one."""
        if self._leaving or not self._server_answers():
            return None
        trial = self._unfinished.pop(0) if self._unfinished else self.study.draw()
        if trial is None:
            return None
        if trial.number in self._running:
            return trial.number, self._running[trial.number].renewed()
        try:
            return trial.number, self._begin(trial)
        except InputError as error:  # settings that do not go together, or with the data
            self.study.end(trial.number, "failed", str(error), 0.0)
            self._show(f"trial {trial.number} failed: {error}")
            return self.next()

    def _server_answers(self) -> bool:
        """Whether a trial's run can be made now; if not, that is said once."""
        from r2d2.tracking import store

        try:
            store.check(self._driven.run.client.tracking_uri)
        except InputError as error:
            if not self._told_away:
                self._show(f"No new trial for now: {error}")
            self._told_away = True
            return False
        self._told_away = False
        return True

    def empty(self) -> bool:
        """Whether there will never be another trial."""
        return bool(self._leaving) or not (self._unfinished or len(self.study.trials()) < self.sweep.number)

    def known(self) -> Mapping[int, Mapping[int, float]]:
        """What was known of the trials' scores when this process began."""
        return self._known

    def values(self, number: int) -> Values:
        """What a trial changes of the base experiment now."""
        return self.study.trials()[number].values

    def epoch(self, number: int, row: dict[str, float]) -> None:
        """A trial has ended an epoch."""
        epoch, score = int(row["epoch"]), row.get("val/dice")
        if score is not None:
            self._score(number, epoch, score)
        # If the trial is stopped for it, its workers have no time to tell this epoch.
        self._running[number].log_epoch(row)
        self._show()

    def restarted(self, number: int, kind: str, said: str, traceback: str) -> None:
        """A trial lost a worker and goes on."""
        self._running[number].restarted(f"{kind}: {said}", traceback)
        self._show(f"trial {number} lost a worker ({kind}: {said}); it goes on from its last checkpoint")

    def failed(self, number: int, kind: str, said: str, traceback: str) -> None:
        """A trial's workers were lost: it comes again, unless that was once too often or it refused its input."""
        running, most = self._running[number], self.sweep.experiment.cluster.max_restarts
        if kind != InputError.__name__ and running.restarts < most and self.sweep.search != "pbt":
            self.restarted(number, kind, said, traceback)
            self._unfinished.insert(0, self.study.trials()[number])
            return
        running.driven.outbox.attach_text("failures/last.txt", traceback)
        self._end(number, "failed", said if kind == InputError.__name__ else f"{kind}: {said}", "FAILED")

    def changed(self, number: int, values: Values, teacher: int) -> None:
        """A trial goes on with another one's weights, and with these values."""
        self.study.note(number, values=values)
        self._running[number].tag(values)
        self._show(f"trial {number} goes on with trial {teacher}'s weights and {_told(values)}")

    def ended(self, number: int, result: dict[str, Any]) -> None:
        """A trial has ended."""
        from r2d2.cluster.leaving import ASKED, STOPPED

        if "superseded" in result:
            self._end(number, "failed", "another driver has taken it over", None)
        elif "left" not in result:
            self._end(number, "stopped", f"others were better after epoch {int(result['epoch'])}", "FINISHED")
        elif result["failed"]:
            self._end(number, "diverged", result["left"], "FAILED")
        elif self._leaving or not result["whole"]:  # it goes on when the sweep does
            self._running.pop(number).end("KILLED", result["left"])
        else:
            for row in result["history"]:  # what was trained before this process began
                self._score(number, int(row["epoch"]), row["val/dice"])
            asked = result["left"] == ASKED[STOPPED].text
            reason = self._running[number].driven.why(result["left"])
            self._end(number, "stopped" if asked else "finished", reason, "FINISHED")

    def _score(self, number: int, epoch: int, dice: float) -> None:
        if epoch not in self.study.trials()[number].scores:
            self.study.score(number, epoch, dice)

    def _end(self, number: int, outcome: "Outcome", reason: str, status: str | None) -> None:
        running = self._running.pop(number)
        self.study.end(number, outcome, reason, running.seconds)
        running.end(status, reason)
        trial, best = self.study.trials()[number], self._best()
        if best is not None and trial.best is not None:
            self._driven.outbox.log({"sweep/dice": trial.best, "sweep/best_dice": best.best or 0.0}, step=number)
        dice = "" if trial.best is None else f", val dice {trial.best:.3f}"
        self._show(f"trial {number} {outcome} after {trial.epochs} epochs{dice}: {_told(trial.values)} ({reason})")

    def _begin(self, trial: "Trial") -> "Task":
        from r2d2.tracking import runs

        began = time.time()
        experiment = started(self.sweep.trial(trial.values))
        prepared, split = prepare_on(experiment, self.placement)
        dataset = described(prepared, split, parents(experiment))
        client = self._driven.run.client
        if trial.run_id is None:
            run = runs.create(client, experiment, dataset, (self.sweep, self._driven.run, f"trial-{trial.number:03d}"))
            self.study.note(trial.number, run_id=run.run_id)
        else:
            run = runs.Run(client, trial.run_id)
        self._running[trial.number] = running = _Running(run, experiment, self.placement)
        running.driven.outbox.tag(trial=trial.number)
        running.tag(trial.values)
        if self._leaving:  # it was asked to while this trial was not yet among those that are told
            running.driven.leave(self._leaving)
        self._show(f"trial {trial.number} begins: {_told(trial.values)}")
        running.task = running.driven.task(
            experiment, prepared.folder, dataset, self.placement.cpus_per_worker, began, trial=True
        )
        return running.task

    def _best(self) -> "Trial | None":
        from r2d2.engine.sweep_report import best_of

        return max(best_of(self.sweep, self.study.trials()).values(), key=lambda trial: trial.best or 0.0, default=None)

    def _recipes(self) -> list[dict[str, Any]]:
        from r2d2.engine.sweep_report import best_of

        if self.sweep.for_each is None:
            return []
        found = best_of(self.sweep, self.study.trials())
        first = next(iter(found.values())).best or 0.0
        return [
            {
                "value": value,
                "trial": trial.number,
                "values": trial.values,
                "val/dice": trial.best,
                "points_lost": 100 * (first - (trial.best or 0.0)),
            }
            for value, trial in found.items()
        ]

    def _report(self, best: "Trial") -> tuple[Path, dict[str, float]]:
        """Write the table and draw the pictures; they go to the sweep's run, too."""
        from r2d2.engine import sweep_report

        folder, importance = self.folder / REPORT, self.study.importance()
        for path in sweep_report.write(folder, self.sweep, self.study.trials(), importance):
            self._driven.outbox.attach_file(path, REPORT)
        self._driven.outbox.tag(best_trial=best.number, best_run=best.run_id)
        return folder, importance

    def _finish(self, best: "Trial", alone: "Placement") -> RunResult | None:
        """Train the best trial to its end, or its settings anew, and test it, once."""
        from r2d2.tracking import runs

        if self.sweep.finish == "none":
            return None
        known = self.study.finish()
        if "result" in known:  # the sweep was killed just behind it
            return RunResult(**known["result"])
        began, client = time.time(), self._driven.run.client
        experiment = started(self.sweep.trial(best.values))
        prepared, split = prepare_on(experiment, self.placement)
        dataset = described(prepared, split, parents(experiment))
        run_id = known.get("run_id", best.run_id if self.sweep.finish == "continue" else None)
        if run_id is not None:
            run = runs.Run(client, run_id)
        else:
            run = runs.create(client, experiment, dataset, (self.sweep, self._driven.run, "best"))
        self.study.finish(run_id=run.run_id)
        result = fit(experiment, run, prepared.folder, dataset, alone, began)
        self.study.finish(result=asdict(result))
        return result

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """What a person sees while it goes on: the headings and the rows."""
        best = self._best()
        trials = sorted(self.study.trials(), key=lambda trial: (trial.outcome != "running", -(trial.best or 0.0)))
        keys = [*self.sweep.space]
        head: list[str] = ["trial", *(key.removeprefix("training.") for key in keys), "epoch", "val dice", "", ""]
        rows: list[Sequence[str]] = []
        for trial in trials:
            values = [config.shown(trial.values[key]) if key in trial.values else "" for key in keys]
            dice = "" if trial.best is None else f"{trial.best:.3f}"
            mark = "best" if best is not None and trial.number == best.number else ""
            rows.append([str(trial.number), *values, str(trial.epochs or ""), dice, trial.outcome, mark])
        return head, rows


class _Running(Part):
    """A trial that is trained, as its driver holds it."""

    def __init__(self, run: "Run", experiment: config.Experiment, placement: "Placement") -> None:
        # The sweep watches the nodes; a trial's own costs are counted.
        super().__init__(run, experiment, placement, None)
        self.task: Task | None = None
        self.restarts = 0

    def tag(self, values: Values) -> None:
        """Write down what it changes of the base experiment."""
        self.driven.outbox.tag(**{f"trial.{key}": config.shown(value) for key, value in values.items()})

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Write an epoch's metrics down, once, whoever else has."""
        kept = {key: value for key, value in row.items() if key.partition("/")[0] in ("train", "val", "time")}
        self.driven.outbox.log_history([kept | {"epoch": row["epoch"]}])

    def restarted(self, cause: str, traceback: str) -> None:
        """Write a restart down."""
        self.restarts += 1  # while this process drives it
        self.driven.restarted(cause, traceback)

    def renewed(self) -> "Task":
        """The task of its next attempt."""
        assert self.task is not None
        self.task = self.driven.renew(self.task)
        return self.task


def _row(trial: "Trial") -> dict[str, Any]:
    row = asdict(trial)
    del row["scores"]
    return row | {"epochs": trial.epochs, "val/dice": trial.best}


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.removeprefix('training.')}={config.shown(value)}" for key, value in values.items())
