"""One worker's network, optimizer and images, and an epoch of them."""

import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from r2d2 import config, models
from r2d2.data.prepare import Prepared, augmentation
from r2d2.models.precision import choose, with_precision
from r2d2.training.feed import Feed
from r2d2.training.ring import Ring
from r2d2.training.schedule import learning_rate
from r2d2.training.state import State
from r2d2.training.step import build_optimizer, build_step


class Learner:
    """What one worker of the ring learns with.

    Args:
        experiment: The experiment.
        prepared: Its prepared data.
        cases: The names of the cases to train on.
        ring: The ring that this worker is in.

    Attributes:
        model: The network that learns, in the precision it computes in.
        precision: `float32` or `bfloat16`.
        steps_per_epoch: The same for every worker.
    """

    def __init__(self, experiment: config.Experiment, prepared: Prepared, cases: Sequence[str], ring: Ring) -> None:
        self.experiment, self.training, self.ring = experiment, experiment.training, ring
        keras.utils.set_random_seed(self.training.seed)
        self._plain = models.build(
            experiment.model, len(prepared.channels), len(prepared.labels), experiment.preprocess.image_size
        )
        # The same for all, also where only some of the nodes' processors compute in bfloat16.
        able = ring.sum(np.array(choose(self.training.precision) == "bfloat16", np.int64), "precision")
        self.precision = "bfloat16" if able == ring.size else "float32"
        self.model = with_precision(self._plain, self.precision)
        self._optimizer = build_optimizer(self.training)
        self._optimizer.build(self.model.trainable_variables)
        self._global_batch = self.training.batch_size * ring.size
        self._step = build_step(self.model, self._optimizer, self.training.loss, self._global_batch, ring)
        rows = prepared.training_rows(cases, experiment.preprocess.slices)
        ranges = augmentation(experiment)
        self._feed = Feed(prepared, rows, self.training.seed, self._global_batch, ring.size, ring.rank, ranges)
        self.steps_per_epoch = self._feed.steps_per_epoch

    @property
    def variables(self) -> list[keras.Variable]:
        """All that the next step depends on beside its number: weights, random states, the optimizer's variables."""
        return [*self.model.variables, *self._optimizer.variables]

    def plain_model(self) -> keras.Model:
        """The network as it is saved: float32, with the present weights."""
        if self._plain is not self.model:
            self._plain.set_weights(self.model.get_weights())
        return self._plain

    def start(self, state: State) -> None:
        """Begin to read the images of the steps that are left, from the state's next one on."""
        for variable in self.model.variables:
            if variable.name == "seed_generator_state":
                # The state is rank 0's on all ranks; from here on every rank drops other units.
                variable.assign(variable.value + tf.constant([self.ring.rank, 0], variable.value.dtype))
        self._batches = iter(self._feed.stream(state.step, self.training.epochs * self.steps_per_epoch))

    def epoch(self, state: State) -> dict[str, float]:
        """Take the steps of the state's next epoch, advance the state's step, and return the epoch's metrics.

        `train/loss` is the mean over the epoch's global batches, summed over the ring. `time/input_s` is how long this
        worker waited for images.
        """
        started, waited, rate = time.perf_counter(), 0.0, 0.0
        loss = tf.constant(0.0)
        for step in range(state.step, state.step + self.steps_per_epoch):
            asked = time.perf_counter()
            images, labels = next(self._batches)
            waited += time.perf_counter() - asked
            rate = learning_rate(self.training, self.ring.size, self.steps_per_epoch, step)
            loss += self._step(images, labels, tf.constant(rate, tf.float32))
        mean_loss = self.ring.sum(loss.numpy(), "loss") / self.steps_per_epoch
        seconds = time.perf_counter() - started
        state.step += self.steps_per_epoch
        return {
            "epoch": float(state.epoch + 1),
            "train/loss": float(mean_loss),
            "train/learning_rate": rate,
            "time/epoch_s": seconds,
            "time/input_s": waited,
            "time/images_per_s": self.steps_per_epoch * self._global_batch / seconds,
        }
