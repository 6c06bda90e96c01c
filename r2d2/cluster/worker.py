"""What one worker of a run does, from its start to the registered model."""

import contextlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2 import config

if TYPE_CHECKING:
    from r2d2.training.ring import Ring


@dataclass(frozen=True)
class Task:
    """What the driver tells every worker; plain values, because it travels.

    `prepared` is the folder of the prepared data, `run_folder` the one of the run's checkpoints, `owner` what
    `Checkpoints.take_over` gave the driver, `split` the names of the cases in each part.
    """

    experiment: str
    run_id: str
    tracking_uri: str
    prepared: str
    run_folder: str
    owner: str
    split: dict[str, list[str]]
    threads: int


def work(values: dict[str, Any]) -> None:
    """One worker's life: join the ring, take up the run where it stands, train, test, hand the model over."""
    task = Task(**values)
    # TensorFlow is imported here, in the worker, and set up before its first operation.
    from r2d2.training import device
    from r2d2.training.ring import Ring

    device.limit_threads(task.threads)
    ring = Ring()
    device.use_gpu(ring.local_rank)
    try:
        _Worker(task, ring).run()
    finally:
        ring.close()


class _Worker:
    def __init__(self, task: Task, ring: "Ring") -> None:
        from r2d2.data.prepare import open_prepared
        from r2d2.inference import Predictor
        from r2d2.training.learner import Learner
        from r2d2.training.state import Checkpoints

        self.task, self.ring = task, ring
        self.experiment = config.parse(task.experiment)
        self.prepared = open_prepared(Path(task.prepared))
        self.learner = Learner(self.experiment, self.prepared, task.split["training"], ring)
        self.predictor = Predictor(self.learner.model, self.experiment.preprocess)
        self.checkpoints = Checkpoints(Path(task.run_folder))

    def run(self) -> None:
        from ray import train

        if not self._take_up():
            train.report({"superseded": True})
            return
        epochs, every = self.experiment.training.epochs, self.experiment.evaluation.every_epochs
        for epoch in range(self.state.epoch + 1, epochs + 1):
            row = self.learner.epoch(self.state)
            if not np.isfinite(row["train/loss"]):
                reason = f"the loss became {row['train/loss']} in epoch {epoch}; try a lower training.learning_rate"
                train.report({"failed": reason})
                return
            if epoch % every == 0 or epoch == epochs:
                row |= self._validate()
            self._keep(epoch, row)
            train.report(row)
        train.report(self._finish())

    def _take_up(self) -> bool:
        """Begin, or go on from the latest checkpoint: rank 0 reads it, the ring spreads it.

        Returns:
            Whether the run is still this driver's.
        """
        from r2d2.training.state import State, Superseded, restore

        self.state = State()
        attempt: int | None = None
        if self.ring.rank == 0:
            with contextlib.suppress(Superseded):
                attempt = self.checkpoints.begin_attempt(self.task.owner)
        attempt = self.ring.broadcast_object(attempt)
        if attempt is None:
            return False
        if self.ring.rank == 0:
            from r2d2.tracking import runs, store

            self.run_record = runs.Run(store.connect(self.task.tracking_uri), self.task.run_id)
            if (latest := self.checkpoints.latest()) is not None:
                self.state = restore(latest, self.learner.variables)
                self.run_record.log_history(self.state.history)
            self.run_record.tag(
                attempts=attempt + 1,
                workers=self.ring.size,
                precision=self.learner.precision,
                steps_per_epoch=self.learner.steps_per_epoch,
            )
        self.state = self.ring.broadcast_object(self.state)
        self.ring.broadcast(self.learner.variables)
        self.learner.start(self.state)
        return True

    def _scores(self, part: str) -> tuple[list[dict], dict[str, float]]:
        """The scores of a part of the split: every worker predicts its share of the slices, the ring adds up."""
        from r2d2.segeval.summary import case_rows, means

        cases = self.prepared.select(self.task.split[part])
        if not cases:
            return [], {}
        mine = self.predictor.confusions(self.prepared, cases, self.ring.rank, self.ring.size)
        named = [(case.name, case.patient) for case in cases]
        rows = case_rows(self.ring.sum(mine, part), named, self.prepared.labels)
        return rows, means(rows)

    def _validate(self) -> dict[str, float]:
        started = time.perf_counter()
        _, scores = self._scores("validation")
        return {f"val/{key}": value for key, value in scores.items()} | {
            "time/validation_s": time.perf_counter() - started
        }

    def _keep(self, epoch: int, row: dict[str, float]) -> None:
        """Write the checkpoint first, then tell the run; what a crash keeps from the run is told after it."""
        self.state.epoch = epoch
        self.state.history.append(row)
        score = row.get("val/dice")
        # Of two equal scores the later one: it has seen more images.
        if score is not None and (self.state.best_score is None or score >= self.state.best_score):
            self.state.best_score, self.state.best_epoch = score, epoch
        elif self.state.best_score is None:  # nothing validated yet, or no patient with anything to find
            self.state.best_epoch = epoch
        if self.ring.rank == 0:
            self.checkpoints.save(self.state, self.learner.variables)
            self.run_record.log_history(self.state.history)

    def _finish(self) -> dict[str, Any]:
        """Score the best weights on the test patients, store and register the model."""
        from r2d2.training.state import restore

        if self.ring.rank == 0:
            restore(self.checkpoints.best(self.state), self.learner.variables)
        self.ring.broadcast(self.learner.variables)
        rows, scores = self._scores("test")
        outcome = self._hand_over(rows, scores) if self.ring.rank == 0 else None
        # Ray listens to the first of its workers, which need not be rank 0 of the ring: all say the same.
        return self.ring.broadcast_object(outcome)

    def _hand_over(self, rows: list[dict], scores: dict[str, float]) -> dict[str, Any]:
        from r2d2.inference.saved import metadata

        self.run_record.log({f"test/{key}": value for key, value in scores.items()}, step=self.state.best_epoch)
        self.run_record.attach_text("evaluation/test.json", json.dumps(rows, indent=1))
        self._attach_overlays(rows)
        uri, version = self.run_record.register(
            self.learner.plain_model(),
            self.experiment.registered_name,
            metadata(self.experiment, self.prepared, self.task.split),
        )
        return {
            "model_uri": uri,
            "version": version,
            "best_epoch": self.state.best_epoch,
            "test": scores,
            "rows": rows,
        }

    def _attach_overlays(self, rows: list[dict]) -> None:
        from r2d2.imgmed import frame
        from r2d2.segeval.overlay import draw, upright

        worst = sorted(rows, key=lambda row: row["dice"] if row["dice"] is not None else 1.0)
        with tempfile.TemporaryDirectory() as folder:
            for row in worst[: self.experiment.evaluation.overlays]:
                (case,) = self.prepared.select([row["case"]])
                number = case.first + int(np.argmax((self.prepared.reference(case) > 0).sum(axis=(1, 2))))
                image, mask = self.prepared.images[number], self.prepared.masks[number]
                prediction = self.predictor.labels(image[None], frame(mask.shape, mask.shape))[0]
                masks = {"reference": upright(mask), "prediction": upright(prediction)}
                dice = "none (no foreground)" if row["dice"] is None else f"{row['dice']:.3f}"
                title = f"{case.name}, slice {number - case.first}, Dice of the volume {dice}"
                width_mm, height_mm = np.array(case.spacing_mm[1:]) * case.frame.box[2:] / case.frame.scaled
                scan = upright(image[..., 0].astype(np.float32))
                figure = draw(scan, masks, self.prepared.labels, title, aspect=height_mm / width_mm)
                figure.savefig(file := Path(folder) / f"{case.name}.png")
                self.run_record.attach_file(file, "overlays")
