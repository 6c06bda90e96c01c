"""A scaling study: an experiment at several numbers of workers, by several rules, several times; its curves."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2 import config
from r2d2.console import live_table, say
from r2d2.engine.doctor import require
from r2d2.engine.driven import leaving_well, run_folder
from r2d2.engine.many import Many, Part, only_driver, unfinished
from r2d2.engine.models import parents, started
from r2d2.engine.prepare import described, storage
from r2d2.engine.train import prepare_on
from r2d2.errors import InputError, WorkFailed
from r2d2.files import whole_file

if TYPE_CHECKING:
    from r2d2.cluster.placement import Placement
    from r2d2.cluster.worker import Task
    from r2d2.config import Child
    from r2d2.tracking.runs import Run

REPORT, CHILDREN = "report", "children.json"
"""In a study's run folder: the report's folder, and what has become of each run."""


@dataclass(frozen=True)
class ScaleResult:
    """A study.

    Attributes:
        run_id: Its MLflow run; those of its runs are below it.
        scaling: What its report's `scaling.json` holds, see `engine.scale_report.scaling`.
        report: The folder of `scaling.json`, the table and the pictures.
        failed: How many runs did not come to their end.
    """

    run_id: str
    scaling: dict[str, Any]
    report: Path
    failed: int


def scale(study: config.Study | None, resume: str | None = None) -> ScaleResult:
    """Run a study's runs and draw its curves.

    Validation patients alone are scored: a study compares recipes, and what is chosen by patients cannot be judged by
    them. The recipe that is chosen meets the test patients once, when it is trained.

    Args:
        study: What to do; may be absent with `resume`.
        resume: A study that did not finish: runs that ended are not run again, others go on from their checkpoints.

    Raises:
        InputError: Before anything is recorded: data, settings or cluster do not fit.
        WorkFailed: No run came to its end, or the study was asked to leave.
    """
    if study is None and resume is None:
        raise InputError("nothing to scale: give an experiment file, or --resume RUN")
    require("tensorflow", "horovod")
    from r2d2.cluster.placement import connected, side_by_side
    from r2d2.tracking import runs, store

    run = None
    if resume is not None:
        run, study = unfinished("scale", resume, study, runs.read_study)
    assert study is not None
    base = started(study.experiment)
    uri = store.resolve(base.tracking.uri)
    store.check(uri)
    largest = max(study.workers, default=1)
    cluster = base.cluster.model_copy(update={"workers": largest, "min_workers": None})
    with connected(cluster) as most:
        # A worker has the same threads in every ring: in the largest one there is room for no more.
        taken = {"cpus_per_worker": most.cpus_per_worker, "gpus_per_worker": most.gpus_per_worker}
        one = cluster.model_copy(update={"workers": 1} | taken)
        _, room = side_by_side(one, max(1, len(study.virtual) * len(study.rules) * study.repeats))
        for child in study.children():  # whatever is wrong with the data is told now
            if child.repeat == 0:
                prepare_on(started(study.of(child)), most)
        if run is None:
            run = runs.create_study(store.connect(uri), study)
        with only_driver(run_folder(base, run.run_id), f"study {run.run_id}"):
            return _Study(study, run, most, room).run()


class _Study(Many["_Running"]):
    """A study that goes on: the desk of its runs, see `r2d2.cluster.series.Desk`."""

    def __init__(self, study: config.Study, run: "Run", most: "Placement", room: int) -> None:
        from r2d2.tracking import runs

        self.study, self.most, self.room = study, most, room
        self.children = study.children()
        folder = run_folder(study.experiment, run.run_id)
        path = folder / CHILDREN
        kept = json.loads(path.read_text()) if path.exists() else [_fresh(child) for child in self.children]
        self.known: list[dict[str, Any]] = kept
        runs.drop_unknown(run, {one["run_id"] for one in kept})
        self._waiting: list[Child] = []
        self._placement = most
        super().__init__(f"study {run.run_id}", "scale", run, folder)

    def run(self) -> ScaleResult:
        """Run what is left, ring after ring, then side by side what is not timed; write the report."""
        from r2d2.cluster import series
        from r2d2.cluster.jobs import Queue
        from r2d2.cluster.placement import Placement

        base, most, study_id = self.study.experiment, self.most, self._driven.run.run_id
        left = [child for child in self.children if self.known[child.number]["outcome"] in ("waiting", "running")]
        say(f"Study {study_id}: {len(left)} of {len(self.children)} runs to do")
        with self._ending("all runs done"):
            with live_table(self._table) as self._show, Queue(say, own=True), leaving_well(self._leave):
                for group in _groups(left):
                    workers = 1 if group[0].virtual else group[0].workers
                    self._waiting = group
                    self._placement = Placement(workers, most.cpus_per_worker, most.gpus_per_worker, most.nodes)
                    rings = min(self.room, len(group)) if group[0].virtual else 1
                    wait, ray = base.cluster.wait_minutes, storage(base) / "ray"
                    series.run(self, self._placement, rings, wait, ray, study_id)
            self._check_left()
            if not any(one["outcome"] == "finished" for one in self.known):
                first = next((one["reason"] for one in self.known if one["reason"]), "none was begun")
                raise WorkFailed(f"study {study_id}: no run came to its end; the first one: {first}")
            report, found = self._report()
        failed = sum(one["outcome"] != "finished" for one in self.known)
        return ScaleResult(study_id, found, report, failed)

    # What the rings' runner asks and tells, in its thread.

    def next(self, ring: int) -> "Task | None":
        """What a ring does next: a run from before that did not end, or a new one."""
        if self._leaving or not self._waiting:
            return None
        child = self._waiting.pop(0)
        try:
            return self._begin(child, ring)
        except InputError as error:
            self._note(child, outcome="failed", reason=str(error))
            self._show(f"{_told(child)} failed: {error}")
            return self.next(ring)

    def empty(self) -> bool:
        """Whether there is no run left to be given out."""
        return not self._waiting

    def epoch(self, ring: int, row: dict[str, Any]) -> None:
        """The run of a ring has ended an epoch."""
        running = self._running[ring]
        running.epochs = int(row["epoch"])
        running.dice = row.get("val/dice", running.dice)
        self._show()

    def ended(self, ring: int, result: dict[str, Any]) -> None:
        """The run of a ring has ended."""
        running = self._running.pop(ring)
        child, told = running.child, result.get("left", "another driver has taken it over")
        if "superseded" in result:
            running.end(None, told)
            self._note(child, outcome="failed", reason=told)
        elif result["failed"]:
            running.end("FAILED", told)
            self._note(child, outcome="diverged", reason=told, seconds=running.seconds)
        elif self._leaving or not result["whole"]:  # it goes on when the study does
            running.end("KILLED", told)
        elif told != "all epochs done":  # somebody stopped this one, or its time was up: it compares with none
            running.end("FINISHED", told)
            self._note(child, outcome="stopped", reason=told, seconds=running.seconds)
        else:
            running.end("FINISHED", told)
            costs = running.driven.run.costs()
            with whole_file(self.measured(child)) as beside:
                beside.write_text(json.dumps(_measured(running.folder) | {"costs": costs}))
            self._note(child, outcome="finished", reason=told, seconds=running.seconds)
        dice = "" if running.dice is None else f", val dice {running.dice:.3f}"
        self._show(f"{_told(child)}: {told}{dice}")

    def failed(self, ring: int, kind: str, said: str, traceback: str) -> None:
        """A ring was lost: its run comes again, unless that was once too often or it refused its input."""
        running = self._running.pop(ring, None)
        if running is None:
            return
        child, told = running.child, f"{kind}: {said}"
        restarts = self.known[child.number]["restarts"]
        again = kind != InputError.__name__ and restarts < self.study.experiment.cluster.max_restarts
        if again:
            running.driven.restarted(told, traceback)
            self._note(child, restarts=restarts + 1)
            self._waiting.insert(0, child)
        else:
            running.driven.outbox.attach_text("failures/last.txt", traceback)
            self._note(child, outcome="failed", reason=told, seconds=running.seconds)
        running.end(None if again else "FAILED", told)
        self._show(f"{_told(child)}: lost ({told})" + ("; it goes on from its last checkpoint" if again else ""))

    def measured(self, child: "Child") -> Path:
        """The file of what was measured of a run that came to its end."""
        return self.folder / f"measured-{child.number:04d}.json"

    def _begin(self, child: "Child", ring: int) -> "Task":
        from r2d2.tracking import runs

        began, known = time.time(), self.known[child.number]
        experiment = started(self.study.of(child))
        prepared, split = prepare_on(experiment, self._placement)
        dataset, client = described(prepared, split, parents(experiment)), self._driven.run.client
        if known["run_id"] is None:
            run = runs.create(client, experiment, dataset, (self.study, self._driven.run, f"run-{child.number:03d}"))
            self._note(child, run_id=run.run_id, outcome="running")
        else:
            run = runs.Run(client, known["run_id"])
        running = self._running[ring] = _Running(child, run, experiment, self._placement)
        running.driven.outbox.tag(scale_workers=child.workers, scale_rule=child.rules[0], scale_repeat=child.repeat)
        if self._leaving:  # it was asked to while this run was not yet among those that are told
            running.driven.leave(self._leaving)
        self._show(f"{_told(child)} begins")
        threads = self._placement.cpus_per_worker
        return running.driven.task(experiment, prepared.folder, dataset, threads, began, trial=True)

    def _note(self, child: "Child", **known: Any) -> None:
        self.known[child.number] |= known
        with whole_file(self.folder / CHILDREN) as beside:
            beside.write_text(json.dumps(self.known, indent=1))

    def _report(self) -> tuple[Path, dict[str, Any]]:
        """Write `scaling.json`, the table and the pictures; they go to the study's run, too."""
        from r2d2.engine import scale_report

        found = points(self.study, self.folder)
        told = scale_report.scaling(self.study, self._driven.run.run_id, found, self.most.cpus_per_worker)
        for path in scale_report.write(self.folder / REPORT, told):
            self._driven.outbox.attach_file(path, REPORT)
        for one in told["summaries"]:
            rule = one["rule"].replace("+", "-").replace(":", "-")
            kept = {"val/dice": one["scores"].get("dice"), "efficiency": one["efficiency"], "step_s": one["step_s"]}
            named = {f"scale/{rule}/{key}": value["value"] for key, value in kept.items() if value}
            if named:  # none of what diverged in all seeds
                self._driven.outbox.log(named, one["workers"], once=f"scale {rule} {one['workers']}")
        return self.folder / REPORT, told

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """What a person sees while it goes on: the headings and the rows."""
        now = {running.child.number: running for running in self._running.values()}
        rows: list[Sequence[str]] = []
        for child in sorted(self.children, key=lambda child: child.number not in now):
            running = now.get(child.number)
            epochs = str(running.epochs or "") if running else ""
            dice = "" if running is None or running.dice is None else f"{running.dice:.3f}"
            outcome = self.known[child.number]["outcome"]
            workers = f"{child.workers}{' virtual' if child.virtual else ''}"
            rows.append([str(child.number), workers, child.rules[0], str(child.repeat), epochs, dice, outcome])
        return ["run", "workers", "rule", "repeat", "epoch", "val dice", ""], rows


class _Running(Part):
    """A run that is trained, as the study's driver holds it."""

    def __init__(self, child: "Child", run: "Run", experiment: config.Experiment, placement: "Placement") -> None:
        # Of what is trained beside others the node's load and energy say nothing.
        super().__init__(run, experiment, placement, None if child.virtual else experiment.tracking.monitor_s)
        self.child = child
        self.epochs, self.dice = 0, None

    def end(self, status: str | None, reason: str) -> None:
        """Close the run, with its last validation, or let go of it."""
        if status == "FINISHED":
            rows = _last_validation(self.folder)
            self.driven.outbox.attach_text("evaluation/validation.json", json.dumps(rows, indent=1))
        super().end(status, reason)


def points(study: config.Study, folder: Path) -> list[dict[str, Any]]:
    """What is known of every run of a study, and by whom it was measured; see `scale_report.scaling`.

    Args:
        study: The study.
        folder: Its run's folder; it may be going on.
    """
    known = json.loads((folder / CHILDREN).read_text())
    found = []
    for child in study.children():
        path = folder / f"measured-{child.number:04d}.json"
        measured = json.loads(path.read_text()) if path.exists() else {}
        found.append(asdict(child) | known[child.number] | {"measured": measured})
    return found


def _measured(folder: Path) -> dict[str, Any]:
    """Of a run that ended: its epochs' metrics, its seconds, its last validation's scores, patient by patient."""
    from r2d2.training.state import Checkpoints

    state = Checkpoints(folder).state()
    assert state is not None
    kept: dict[str, Any] = {"history": state.history, "updates": state.step, "training_s": state.elapsed_s}
    return kept | {"rows": _last_validation(folder)}


def _last_validation(folder: Path) -> list[dict[str, Any]]:
    from r2d2.cluster import validations
    from r2d2.training.state import Checkpoints

    return validations.last(Checkpoints(folder).folder)


def _fresh(child: "Child") -> dict[str, Any]:
    return {"number": child.number, "run_id": None, "outcome": "waiting", "reason": "", "seconds": None, "restarts": 0}


def _groups(children: "Sequence[Child]") -> "list[list[Child]]":
    """Those that one series of rings does: neighbours of as many real workers."""
    found: list[list[Child]] = []
    for child in children:
        last = found[-1][-1] if found else None
        together = last is not None and last.virtual == child.virtual
        if last is not None and together and (child.virtual or last.workers == child.workers):
            found[-1].append(child)
        else:
            found.append([child])
    return found


def _told(child: "Child") -> str:
    kind = "virtual workers" if child.virtual else "workers"
    return f"run {child.number}: {child.workers} {kind}, {child.rules[0]}, repeat {child.repeat}"
