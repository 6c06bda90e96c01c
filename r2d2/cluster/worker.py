"""What one worker of a run does, from its start to the registered model."""

import contextlib
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2 import config
from r2d2.cluster.leaving import ASKED, GRACE_S, PAUSED, STOP, STOPPED, TIME_IS_UP, Reason, StopAsked
from r2d2.errors import InputError
from r2d2.lean import import_keras_alone
from r2d2.tracking.outbox import FOLDER, Outbox

if TYPE_CHECKING:
    from r2d2.segeval import Tally
    from r2d2.training.ring import Ring
    from r2d2.training.sentinel import Trouble

TIMELINE = "timeline.json"
"""The file in an attempt's folder that says what Horovod did."""


@dataclass(frozen=True)
class Task:
    """What the driver tells every worker; plain values, because it travels.

    `prepared` is the folder of the prepared data, `run_folder` the one of the run's checkpoints and outbox, `owner`
    what `Checkpoints.take_over` gave the driver, `split` the names of the cases in each part, `weights` the file of the
    weights to start from, if any, `parents` the models they come from; `git` and `packages` go onto the model's card.
    The driver `began` and `asked` for the workers at these seconds of the clock. A `trial` of a sweep is judged by its
    validation patients alone: it is neither tested nor handed over. One of a population `teaches`, and goes on from
    where the run in its `donor`'s folder stands, if it has one.
    """

    experiment: str
    run_id: str
    prepared: str
    run_folder: str
    owner: str
    split: dict[str, list[str]]
    threads: int
    began: float
    asked: float
    git: str
    packages: dict[str, str]
    parents: list[dict[str, Any]]
    weights: str | None = None
    trial: bool = False
    teaches: bool = False
    donor: str | None = None


def work(values: dict[str, Any]) -> None:
    """One worker's life: join the ring, take up the run where it stands, train, test, hand the model over."""
    task, began = Task(**values), time.time()
    ring = join(task)
    try:
        do(task, ring, began)
    finally:
        ring.close()


def join(task: Task) -> "Ring":
    """Set this process up for a task, and join its ring; later tasks of as many threads may go on in both."""
    # TensorFlow is imported here, in the worker, and set up before its first operation.
    import_keras_alone()
    from r2d2.training import device
    from r2d2.training.ring import Ring

    experiment = config.parse(task.experiment)
    training = experiment.training
    device.limit_threads(task.threads, device.lanes(experiment, task.threads), training.deterministic)
    ring = Ring(training.ring, training.deterministic, Path(task.run_folder) / task.owner / TIMELINE)
    device.use_gpu(ring.local_rank)
    return ring


def do(task: Task, ring: "Ring", began: float) -> None:
    """Do a task in a ring that was joined; the process began with it at this second of the clock."""
    from r2d2.training import device

    experiment = config.parse(task.experiment)
    stages = [("until workers were asked for", task.asked), ("until they began", began)]
    stages.append(("libraries and ring", time.time()))
    worker = _Worker(task, experiment, ring, device.lanes(experiment, task.threads), stages)
    try:
        worker.run()
    finally:
        worker.close()


class _Worker:
    def __init__(
        self,
        task: Task,
        experiment: config.Experiment,
        ring: "Ring",
        lanes: int,
        stages: list[tuple[str, float]],
    ) -> None:
        from r2d2.data import cache
        from r2d2.data.prepare import open_prepared
        from r2d2.inference import Predictor
        from r2d2.training.learner import Learner
        from r2d2.training.state import Checkpoints, Superseded, Writer

        self.task, self.ring = task, ring
        self.stages = stages  # of the start, each with the time on the clock when it ended
        self.experiment, self.training = experiment, experiment.training
        # In the ring already, which is patient, and not before, where who is first waits 30 seconds for the others.
        prepared, read = cache.nearest(Path(task.prepared), experiment)
        self.data_read = sorted(set(ring.gather_objects(f"{socket.gethostname()}: {read}")))
        self.prepared = open_prepared(prepared)
        self.checkpoints = Checkpoints(Path(task.run_folder), self.training.checkpoints.keep)
        precision, self.attempt = "", None  # of rank 0: the attempt's number, unless another has begun
        if ring.rank == 0:
            with contextlib.suppress(Superseded):  # which `_take_up` tells
                self.attempt = self.checkpoints.begin_attempt(task.owner)
            if before := self.checkpoints.state():
                precision = before.precision
        precision = ring.broadcast_object(precision)  # a run keeps it, whatever hosts it goes on with
        self.learner = Learner(self.experiment, self.prepared, task.split["training"], ring, lanes, precision)
        self.predictor = Predictor(self.learner.model, self.experiment.preprocess)
        self.writer = Writer(self.checkpoints)
        self.stop: StopAsked | None = None

    def close(self) -> None:
        """End the threads."""
        if self.stop:
            self.stop.close()

    def run(self) -> None:
        self.stages.append(("network and data", time.time()))
        if not self._take_up():
            self._report({"superseded": True})
            return
        self.stages.append(("run taken up", time.time()))
        reason = self._train()
        if self.ring.rank == 0:
            self.writer.wait()
        if self.task.trial:
            scores = [
                {key: row[key] for key in ("epoch", "val/dice")} for row in self.state.history if "val/dice" in row
            ]
            outcome: dict[str, Any] = {"failed": reason.failed, "whole": reason.evaluate, "history": scores}
        else:
            outcome = self._finish() if reason.evaluate else {"failed": reason.failed}
        self._report(outcome | {"left": reason.text})

    def _report(self, row: dict[str, Any], **more: Any) -> None:
        """Tell the driver, and of which run it is told: in a series of them a worker has several."""
        from ray import train

        train.report(row | {"run": self.task.run_id}, **more)

    def _take_up(self) -> bool:
        """Begin, or go on from the latest checkpoint: rank 0 reads it, the ring spreads it.

        Returns:
            Whether the run is still this driver's.
        """
        from r2d2.training import device
        from r2d2.training.state import State

        self.state = State()
        if self.ring.rank == 0:
            for path in filter(None, (self.task.run_folder, self.task.weights)):
                if not Path(path).exists():
                    raise InputError(
                        f"{socket.gethostname()}: there is no {path}; set tracking.storage to a folder that all nodes "
                        "see at the same place"
                    )
        attempt = self.ring.broadcast_object(self.attempt)
        if attempt is None:
            return False
        if self.ring.rank == 0:
            self.outbox = Outbox(Path(self.task.run_folder) / FOLDER, self.task.owner)
            self.stop = StopAsked(Path(self.task.run_folder) / STOP)
        if self.ring.rank == 0 and self.task.donor:
            self.checkpoints.take_from(Path(self.task.donor))
        latest = self.checkpoints.latest() if self.ring.rank == 0 else None
        if self.ring.rank == 0 and latest is None and self.task.weights:
            from r2d2.models.weights import carry_over

            carried = carry_over(
                self.learner.model,
                Path(self.task.weights),
                self.experiment.preprocess.normalization,
                self.experiment.model.freeze,
            )
            self.outbox.tag(weights=str(carried)[:5000])
        self._stand_at(latest)
        if self.task.donor:  # it is that one that was to learn no more
            self.state.left, self.state.improved_epoch = "", self.state.epoch
        if self.ring.rank == 0:
            self.outbox.tag(
                attempts=attempt + 1,
                data_read=", ".join(self.data_read),
                started_at_step=self.state.step,
                workers=self.ring.size,
                precision=self.learner.precision,
                computed_on=device.told(self.training),
                steps_per_epoch=self.learner.steps_per_epoch,
            )
            if self.task.donor:
                self.outbox.tag(
                    **{f"learned.{attempt}": f"from {Path(self.task.donor).name} at epoch {self.state.epoch}"}
                )
                self.outbox.forget_after(self.state.epoch)
            self.outbox.log_history(self.state.history)
            if not self.checkpoints.best(self.state).exists():  # at the beginning: what the sentinel can go back to
                self._save()
        return True

    def _stand_at(self, checkpoint: Path | None) -> None:
        """Take over, on all workers, what rank 0 has or reads from a checkpoint, and begin to feed from there."""
        from r2d2.training.state import restore

        if checkpoint is not None:
            self.state = restore(checkpoint, self.learner.variables)
            if not self.checkpoints.best(self.state).exists():  # it went when a later one took its place
                self.state.best_score, self.state.best_elapsed_s = None, self.state.elapsed_s
                self.state.best_epoch, self.state.best_step = self.state.epoch, self.state.step
        self.state.precision = self.learner.precision
        self.state = self.ring.broadcast_object(self.state)
        self.ring.broadcast(self.learner.variables)
        self.learner.start(self.state)
        self.last_save = self.mark = time.monotonic()
        self.saved_step = self.state.step

    def _train(self) -> "Reason":
        """Step after step until all are done or there is a reason to leave: the same one, at the same step, on all."""
        while True:
            trouble: Trouble | None = None
            leave: Reason | None = None
            if self.state.left:  # before a resume
                leave = Reason(self.state.left)
            elif self._epoch_is_open() and self.learner.ends_epoch(self.state):  # also after a resume
                trouble, leave = self._end_epoch()
            elif self.state.step < self.learner.total_steps:
                trouble, leave = self._one_step()
            else:
                return Reason("all epochs done")
            if trouble:
                leave = self._go_back(trouble)
            if leave:
                # A part of a sweep or study that is stopped may be gone on with; its checkpoint is there.
                over = leave.evaluate and not (self.task.trial and leave is ASKED[STOPPED])
                if over and self._epoch_is_open():
                    self.state.left = leave.text
                    self._end_epoch(leaving=True)
                elif over and not self.state.left:
                    self.state.left = leave.text
                    self._save()
                elif leave is ASKED[PAUSED] and self._epoch_is_open() and self.learner.ends_epoch(self.state):
                    trouble, _ = self._end_epoch()
                    if trouble and (hopeless := self._go_back(trouble)):
                        leave = hopeless
                return leave

    def _epoch_is_open(self) -> bool:
        return self.state.step > self.state.epoch * self.learner.steps_per_epoch

    def _one_step(self) -> "tuple[Trouble | None, Reason | None]":
        """Take a step; what the sentinel says of it, and whether somebody asked to leave after it."""
        from r2d2.training import sentinel

        told = self.learner.step(self.state, self._code(self.state.step + 1))
        self._count_time()
        if self.stages and self.state.step == 1 and self.ring.rank == 0:
            self.stages.append(("first step", time.time()))
            before = [self.task.began, *(ended for _, ended in self.stages)]
            took = [
                f"{stage} {ended - start:.1f} s" for start, (stage, ended) in zip(before, self.stages, strict=False)
            ]
            self.outbox.tag(start=f"{before[-1] - before[0]:.1f} s: {', '.join(took)}")
            self.stages = []
        trouble = sentinel.after_step(self.training.sentinel, self.state, told.loss, told.gradient_norm)
        leave = ASKED.get(told.code)
        if not trouble and (leave or self._save_is_due(self.state.step)):
            self._save()
        return trouble, leave

    def _code(self, step: int) -> int:
        """What rank 0 tells the others: why to leave after this step, or 0."""
        if self.stop is None:
            return 0
        limit = self.training.max_minutes
        if limit is not None and self.state.elapsed_s >= 60 * limit:
            return TIME_IS_UP
        code, when = self.stop.wish
        return 0 if code in (STOPPED, PAUSED) and not self._leaves_with(step, when) else code

    def _leaves_with(self, step: int, when: str) -> bool:
        """Whether a run that is asked to stop, and when, leaves after this step."""
        ends_epoch = step % self.learner.steps_per_epoch == 0
        return when == "now" or ends_epoch or (when == "checkpoint" and self._save_is_due(step))

    def _count_time(self) -> None:
        now = time.monotonic()
        self.state.elapsed_s, self.mark = self.state.elapsed_s + now - self.mark, now

    def _save_is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step, within an epoch, and the one before is written."""
        often = self.training.checkpoints
        if self.ring.rank > 0 or not self.writer.idle:
            return False
        every = often.every_steps  # one that was due while another was written comes behind it
        due = every is not None and step // every > self.saved_step // every
        waited = time.monotonic() - self.last_save
        return due or (often.every_minutes is not None and waited >= 60 * often.every_minutes)

    def _save(self) -> None:
        """Write the checkpoint first, then tell the run; what a crash keeps from the run is told after it."""
        if self.ring.rank == 0:
            self.writer.save(self.state, self.learner.variables, lambda state: self.outbox.log_history(state.history))
            self.last_save, self.saved_step = time.monotonic(), self.state.step

    def _end_epoch(self, leaving: bool = False) -> "tuple[Trouble | None, Reason | None]":
        """Close the epoch, validate if it is time, keep a checkpoint.

        Returns:
            What the sentinel says, and a reason to leave: it gets no better, or somebody has asked meanwhile.
        """
        from r2d2.cluster import teaching
        from r2d2.training import sentinel

        state, early = self.state, self.training.early_stopping
        done = leaving or state.step == self.learner.total_steps
        validates = done or (state.epoch + 1) % self.experiment.evaluation.every_epochs == 0
        if validates and self._validates_slowly():  # who is killed meanwhile has only that to do again
            self._save()
        row = self.learner.end_epoch(state)
        broken = not all(np.isfinite(one.numpy()).all() for one in self.learner.model.variables)
        trouble = sentinel.after_epoch(state, int(self.ring.sum(np.array([broken], np.int64), "broken")[0]))
        if validates and not trouble:
            row |= self._validate()
        self._count_time()
        state.history.append(row)
        score = row.get("val/dice")
        if score is not None:
            trouble = sentinel.after_validation(self.training.sentinel, state, score)
            least = early.improvement if early else 0.0
            if state.improved_score is None or score > state.improved_score + least:
                state.improved_score, state.improved_epoch = score, state.epoch
        if not trouble:
            # Of two equal scores the later one: it has seen more images. Nothing validated yet, or no patient with
            # anything to find: the latest.
            if state.best_score is None or (score is not None and score >= state.best_score):
                state.best_score, state.best_epoch, state.best_step = score, state.epoch, state.step
                state.best_elapsed_s = state.elapsed_s
            if early and state.best_score is not None and state.epoch - state.improved_epoch >= early.patience:
                state.left = state.left or f"no better validation Dice in {early.patience} epochs"
        if not trouble or leaving:  # who leaves goes on from here with the test of the best weights alone
            self._save()
        if trouble:  # what is gone back over is not told
            return trouble, None
        if self.task.teaches and self.ring.rank == 0:
            self.writer.wait()  # who is to learn from it must find it
            with teaching.pointer(self.task.run_folder) as pointer:
                self._report(row, checkpoint=pointer)
        else:
            self._report(row)
        asked = None
        if validates:  # which took its time, and what it has ended is whole and kept
            asked = ASKED.get(int(self.ring.sum(np.array([self._code(state.step)]), "asked")[0]))
        if asked is ASKED[PAUSED] or not (state.left or done):
            return None, asked
        return None, Reason(state.left) if state.left else None

    def _validates_slowly(self) -> bool:
        """Whether a validation may take longer than a process that is told to end is given."""
        took = [row["time/validation_s"] for row in self.state.history if "time/validation_s" in row]
        return not took or took[-1] > GRACE_S / 2

    def _go_back(self, trouble: "Trouble") -> "Reason | None":
        """Go back to the last checkpoint from before the trouble at a lower rate, or say why not."""
        from r2d2.cluster.validations import forget_after

        settings, before, hopeless = self.training.sentinel, self.state, ""
        checkpoint: Path | None = None
        if settings.action == "stop":
            hopeless = "; try a lower training.learning_rate"
        elif before.sentinel_restarts >= settings.max_restarts:
            hopeless = f", after {before.sentinel_restarts} restarts at lower rates"
        else:
            if self.ring.rank == 0:
                self.writer.wait()
                checkpoint = self.checkpoints.sound(before, trouble.before)
            if not self.ring.broadcast_object(checkpoint is not None):
                hopeless = ", and there is no checkpoint from before"
        if hopeless and self.training.ring.compression == "fp16":
            hopeless += " (training.ring.compression: fp16 sends no sum beyond 64)"
        if hopeless:
            if self.ring.rank == 0:
                self.outbox.log_history(before.history)
            return Reason(f"{trouble.text}{hopeless}", evaluate=False, failed=True)
        self._stand_at(checkpoint)
        self.state.elapsed_s = before.elapsed_s
        self.state.rate_factor = before.rate_factor * settings.rate_factor
        self.state.sentinel_restarts = before.sentinel_restarts + 1
        if self.ring.rank == 0:
            self.checkpoints.forget_after(self.state.step)
            self.outbox.forget_after(self.state.epoch)
            forget_after(self.checkpoints.folder, self.state.epoch)
            self._save()  # a run that is lost now goes on from here at the lower rate
            self.writer.wait()
            number, factor = self.state.sentinel_restarts, self.state.rate_factor
            told = f"{trouble.text}; back to step {self.state.step} at {factor:g} times the rate"
            self.outbox.tag(**{f"sentinel.{number}": told})
            self.outbox.log({"time/sentinel": number}, step=number, once=f"sentinel {number}")  # when it was
        return None

    def _scores(self, part: str) -> "Tally":
        """The scores of a part of the split: every worker predicts its share of the slices, the ring adds up."""
        from r2d2.inference import tallied
        from r2d2.segeval import Tally

        cases = self.prepared.select(self.task.split[part])
        if not cases:
            return Tally(self.prepared.labels)
        if self.ring.rank == 0:  # who looks on knows by it how long nothing may be heard
            self.outbox.tag(evaluating=f"{time.time():.0f} {sum(case.slices for case in cases)}")
        slices = self.ring.sum(self.predictor.confusions(self.prepared, cases, self.ring.rank, self.ring.size), part)
        return tallied(self.prepared, cases, slices)

    def _validate(self) -> dict[str, float]:
        from r2d2.cluster import validations

        started = time.perf_counter()
        tally = self._scores("validation")
        if self.ring.rank == 0 and tally.rows:
            validations.keep(self.checkpoints.folder, self.state.epoch, tally)
            self._draw_validation(tally)
        return {f"val/{key}": value for key, value in tally.means().items()} | {
            "time/validation_s": time.perf_counter() - started
        }

    def _draw_validation(self, tally: "Tally") -> None:
        """Draw the worst patients, if this is one of the validations at which they are drawn."""
        from r2d2.cluster import handover, validations

        evaluation = self.experiment.evaluation
        of, number = (-(-epoch // evaluation.every_epochs) for epoch in (self.training.epochs, self.state.epoch))
        if evaluation.overlays and not self.task.trial and validations.is_drawn(number, of):
            worst = handover.worst(self.prepared, self.predictor, tally, evaluation.overlays)
            validations.draw(self.outbox, self.state.epoch, worst, self.prepared.labels)

    def _finish(self) -> dict[str, Any]:
        """Score the best weights on the test patients, store and register the model."""
        from r2d2.training.state import restore

        if self.ring.rank == 0:
            restore(self.checkpoints.best(self.state), self.learner.variables)
        self.ring.broadcast(self.learner.variables)
        tally = self._scores("test")
        outcome = self._hand_over(tally) if self.ring.rank == 0 else None
        # Ray listens to the first of its workers, which need not be rank 0 of the ring: all say the same.
        return self.ring.broadcast_object(outcome)

    def _hand_over(self, tally: "Tally") -> dict[str, Any]:
        from r2d2.cluster import handover
        from r2d2.segeval import plain
        from r2d2.tracking.card import lineage

        means, folder = tally.means(), self.checkpoints.folder
        if (folder / TIMELINE).exists():
            self.outbox.attach_file(folder / TIMELINE, "horovod")
        plane = self.experiment.preprocess.plane
        handover.write_scores(self.outbox, tally, means, self.state.best_epoch, plane, folder)
        worst = handover.worst(self.prepared, self.predictor, tally, self.experiment.evaluation.overlays)
        handover.draw_worst(self.outbox, worst, self.prepared.labels)
        task, made = self.task, folder / handover.MODEL
        origin = lineage(task.run_id, self.prepared.key, task.git, task.packages)
        network = self.learner.plain_model()
        tags = handover.write_model(
            made, self.experiment, self.prepared, task.split, task.parents, network, tally, origin
        )
        # Out of the attempt's folder, which the next one would rename, under a name that no other attempt's has.
        model = made.rename(Path(task.run_folder) / f"{handover.MODEL}-{task.owner}")
        self.outbox.register(model, self.experiment.registered_name, tags)
        return {
            "model": str(model),
            "best_epoch": self.state.best_epoch,
            "test": means,
            "rows": plain(tally.rows),
        }
