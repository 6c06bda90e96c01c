"""One worker's network, optimizer and images, and a step of them."""

import socket
import time
from collections.abc import Sequence

import keras
import numpy as np

from r2d2 import config, models
from r2d2.data.fingerprint import class_weights
from r2d2.data.prepare import Prepared, augmentation
from r2d2.models import losses
from r2d2.models.precision import choose, with_precision
from r2d2.training import device, optimizers
from r2d2.training.feed import Feed, share
from r2d2.training.ring import Ring
from r2d2.training.schedule import learning_rate, total_steps
from r2d2.training.state import Seconds, State
from r2d2.training.step import Step, Told
from r2d2.training.verdict import of_ring


class Learner:
    """What one worker of the ring learns with.

    Args:
        experiment: The experiment.
        prepared: Its prepared data.
        cases: The names of the cases to train on.
        ring: The ring that this worker is in.
        lanes: How many share a minibatch, see `r2d2.training.device.lanes`.
        precision: What the run has computed in so far; empty if it begins.

    Attributes:
        model: The network that learns, in the precision it computes in.
        precision: `float32` or `bfloat16`.
        steps_per_epoch: The same for every worker, and so is `total_steps`, the updates of the whole run.
    """

    def __init__(
        self,
        experiment: config.Experiment,
        prepared: Prepared,
        cases: Sequence[str],
        ring: Ring,
        lanes: int = 1,
        precision: str = "",
    ) -> None:
        self.experiment, self.training, self.ring, self._lanes = experiment, experiment.training, ring, lanes
        keras.utils.set_random_seed(self.training.seed)
        self._plain = models.build(
            experiment.model, len(prepared.channels), len(prepared.labels), experiment.preprocess.image_size
        )
        # The same for all, also where only some of the nodes' processors compute in bfloat16.
        able = ring.sum(np.array(choose(self.training.precision) == "bfloat16", np.int64), "precision")
        self.precision = precision or ("bfloat16" if able == ring.size else "float32")
        self.model = with_precision(self._plain, self.precision, fuse=not device.xla(self.training))
        self._optimizer = optimizers.build(self.training)
        self._optimizer.build(self.model.trainable_variables)
        rows, asked = prepared.training_rows(cases, experiment.preprocess.slices), self.training.class_weights
        pixels = ring.sum(prepared.pixels(rows[ring.rank :: ring.size]), "pixels") if asked == "fingerprint" else ()
        self._loss = losses.build(self.training, class_weights(asked, prepared.labels, pixels))
        states = [variable for variable in self.model.variables if variable.name == "seed_generator_state"]
        self._seeds = [(state, int(state.numpy()[0])) for state in states]
        self._workers = experiment.logical_workers
        self._logical, size = share(self._workers, ring.size, ring.rank), self.training.batch_size
        self._frozen: bool | None = None
        self._feed = Feed(
            prepared, rows, self.training.seed, size, self._workers, self._logical, augmentation(experiment)
        )
        self.steps_per_epoch = self._feed.steps_per_epoch
        self.total_steps = total_steps(self.training, self.steps_per_epoch, len(rows))

    @property
    def variables(self) -> list[keras.Variable]:
        """All that the next step depends on beside its number: weights, moving averages, the optimizer's variables."""
        return [*self.model.variables, *self._optimizer.variables]

    def plain_model(self) -> keras.Model:
        """The network as it is saved: float32, with the present weights."""
        if self._plain is not self.model:
            self._plain.set_weights(self.model.get_weights())
        if (frozen := self.experiment.model.freeze) is not None:
            models.freeze(self._plain, frozen, frozen.until_epoch)
        return self._plain

    def start(self, state: State) -> None:
        """Begin to read the images of the steps that are left, from the state's next one on."""
        self._batches = iter(device.ahead(self._feed.stream(state.step, self.total_steps)))

    def step(self, state: State, code: int = 0) -> Told:
        """Take the state's next step and count it: step, loss, and where the time went.

        Args:
            state: Where the run stands.
            code: What this worker wants all to know.
        """
        asked = time.perf_counter()
        images, labels = next(self._batches)
        began = time.perf_counter()
        told = self._update(state)(images, labels, state.step, self._rate(state, state.step), code)
        computed = time.perf_counter() - began - told.communication_s
        state.step += 1
        state.loss_sum += told.loss
        spent = state.epoch_s
        spent.input += began - asked
        spent.compute += computed
        spent.communication += told.communication_s
        return told

    def _update(self, state: State) -> Step:
        """The compiled update of the state's epoch: another one once what stood still begins to learn."""
        settings, epoch = self.experiment.model.freeze, state.step // self.steps_per_epoch
        frozen = settings is not None and epoch < settings.until_epoch
        if frozen != self._frozen:
            trainable, self._frozen = models.freeze(self.model, settings, epoch), frozen
            self._step = Step(
                self.model,
                trainable,
                self._optimizer,
                self._loss,
                self._seeds,
                self.training.batch_size,
                self._logical,
                self._workers,
                self.ring,
                device.xla(self.training),
                self._lanes,
            )
        return self._step

    def _rate(self, state: State, step: int) -> float:
        rate = learning_rate(self.training, self._workers, self.steps_per_epoch, self.total_steps, step)
        return rate * state.rate_factor

    def ends_epoch(self, state: State) -> bool:
        """Whether the last step was an epoch's last one, or the run's."""
        return state.step % self.steps_per_epoch == 0 or state.step == self.total_steps

    def end_epoch(self, state: State) -> dict[str, float]:
        """Close the state's epoch, whole or not, and return its metrics.

        `train/loss` is the mean over the epoch's global batches. `time/input_s`, `time/compute_s` and
        `time/communication_s` are where the ring's time went (`verdict.of_ring`): waiting for images, computing, and
        from the last gradient to the last sum, sending and waiting for slower workers. All workers do this at once.
        """
        each = self.ring.gather_objects((socket.gethostname(), state.epoch_s))
        slowest, spent = of_ring([one for _, one in each])
        if len(each) > 1:
            name = f"rank {slowest} ({each[slowest][0]})"
            state.slowest_s[name] = state.slowest_s.get(name, 0.0) + spent.total
        steps = state.step - state.epoch * self.steps_per_epoch
        images = steps * self.training.batch_size * self._workers
        state.epoch += 1
        row = {
            "epoch": float(state.epoch),
            "train/loss": state.loss_sum / steps,
            "train/learning_rate": self._rate(state, state.step - 1),
            "time/epoch_s": spent.total,
            "time/input_s": spent.input,
            "time/compute_s": spent.compute,
            "time/communication_s": spent.communication,
            "time/images_per_s": images / spent.total,
        }
        state.run_s.input += spent.input
        state.run_s.compute += spent.compute
        state.run_s.communication += spent.communication
        state.loss_sum, state.epoch_s = 0.0, Seconds()
        return row
