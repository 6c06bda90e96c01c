"""One update of the weights by one worker: its share of the gradient, summed over the ring, applied.

A worker that does the work of several logical workers takes their minibatches one after another and adds up their
gradients, small ones put together where no image depends on the others of its minibatch; the ring sums once an update.
Of a minibatch, each lane takes its share of the images: lanes are computed side by side, one thread each, which keeps
threads busier than sharing out every single operation.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from r2d2 import models
from r2d2.models import fused
from r2d2.models.losses import Loss
from r2d2.training.ring import Ring

TOGETHER = 2**17
"""Pixels that are worth computing at once, eight images of 128x128: of more a processor computes each no faster."""


@dataclass(frozen=True)
class Told:
    """What an update told; `loss`, `gradient_norm` and `code` are the same on all workers.

    Attributes:
        loss: The mean over the global batch's images.
        gradient_norm: Of all gradients together, summed over the ring.
        code: The sum of what the workers handed in.
        communication_s: From this worker's last gradient to the last sum: sending, and waiting for slower workers.
    """

    loss: float
    gradient_norm: float
    code: int
    communication_s: float


class Step:
    """The compiled update of one worker.

    The loss is the mean over the global batch's images. Each worker sums its images' losses and divides by the global
    number, and the ring sums the gradients: exact however unevenly the images are shared out. What a logical worker
    draws in a step (which units are dropped) depends on the step, its number and whether XLA compiles it. Each logical
    worker normalizes its own minibatch (batch normalization); moving averages are averaged over all of them in every
    update, which gives what averaging them once at the end would, for they are linear.

    Args:
        model: In the precision that it computes in.
        trainable: Its variables that learn; what else it has stands still.
        optimizer: Built for all that ever learn.
        loss: Of each image.
        batch_size: Images of a logical worker's minibatch.
        seeds: The states of the network's random generators, each with the number that it began with.
        logical: The numbers of the logical workers that this worker is.
        num_logical: How many logical workers there are in all.
        ring: The ring.
        xla: Compile with XLA.
        lanes: How many share a minibatch; its number of images must be a multiple.
    """

    def __init__(
        self,
        model: keras.Model,
        trainable: Sequence[keras.Variable],
        optimizer: keras.optimizers.Optimizer,
        loss: Loss,
        seeds: Sequence[tuple[keras.Variable, int]],
        batch_size: int,
        logical: Sequence[int],
        num_logical: int,
        ring: Ring,
        xla: bool = False,
        lanes: int = 1,
    ) -> None:
        self._network, self._per_image, self._seeds = models.logits(model), loss, seeds
        self._trainable, self._optimizer = list(trainable), optimizer
        self._images, self._num_logical = batch_size * num_logical, num_logical
        self._batch_size, self._ring, self._lanes = batch_size, ring, lanes
        self._moving = [variable.value for variable in models.moving_averages(model)]
        pixels = batch_size * math.prod(model.input_shape[1:3])
        together = 1 if self._seeds or self._moving else max(1, TOGETHER // pixels)
        self._logical = [logical[first : first + together] for first in range(0, len(logical), together)]
        # What is added up over the minibatches of an update, where there are several: gradients, loss, moving averages.
        several = len(self._logical) > 1
        self._sums = [tf.Variable(tf.zeros_like(v.value)) for v in self._trainable] if several else []
        self._loss_sum = tf.Variable(0.0)
        self._moving_before = [tf.Variable(v) for v in self._moving] if several else []
        self._moving_sums = [tf.Variable(tf.zeros_like(v)) for v in self._moving] if several else []
        # XLA cannot compile Horovod's operations: it compiles what is before the ring and what is behind it.
        self._gradients = tf.function(self._compute, jit_compile=xla, autograph=False)
        self._apply = tf.function(self._apply_sums, jit_compile=xla, autograph=False)
        self._add = tf.function(self._add_minibatch, autograph=False)
        self._update = tf.function(self._last_minibatch, autograph=False)

    def __call__(self, images: tf.Tensor, labels: tf.Tensor, number: int, rate: float, code: int = 0) -> Told:
        """Take update `number` of the run.

        Args:
            images: (minibatches x batch size, H, W, C) float32, the minibatches of this worker's logical workers.
            labels: (minibatches x batch size, H, W).
            number: From 0.
            rate: The learning rate.
            code: What this worker wants all to know.
        """
        step, first = tf.constant(number, tf.int64), 0
        for moving, before in zip(self._moving, self._moving_before, strict=False):
            before.assign(moving)
        for some in self._logical:
            part = slice(first, first := first + len(some) * self._batch_size)
            minibatch = images[part], labels[part], tf.constant(some[0], tf.int64), step
            if some is not self._logical[-1]:
                self._add(*minibatch)
        told = self._update(*minibatch, tf.constant(rate, tf.float32), tf.constant(code, tf.float32)).numpy()
        return Told(float(told[0]), float(told[2]), int(told[1]), float(told[3]))

    def _compute(self, images: tf.Tensor, labels: tf.Tensor, lane: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with fused.share(lane, self._lanes), tf.GradientTape() as tape:
            losses = self._per_image(labels, self._network(images, training=True))
            value = tf.reduce_sum(losses) / self._images
        return value, tape.gradient(value, [variable.value for variable in self._trainable])

    def _minibatch(
        self, images: tf.Tensor, labels: tf.Tensor, logical: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The loss and the gradients of one minibatch, each logical worker's moving averages starting where all do."""
        for moving, before in zip(self._moving, self._moving_before, strict=False):
            moving.assign(before)
        for seed, first in self._seeds:
            seed.assign(tf.cast(tf.stack([first + logical, step]), seed.dtype))
        size = images.shape[0] // self._lanes
        parts = [
            self._gradients(images[lane * size :][:size], labels[lane * size :][:size], tf.constant(lane))
            for lane in range(self._lanes)
        ]
        values, gradients = zip(*parts, strict=True)
        return _sum(values), [_sum(one) for one in zip(*gradients, strict=True)]

    def _add_minibatch(self, images: tf.Tensor, labels: tf.Tensor, logical: tf.Tensor, step: tf.Tensor) -> None:
        value, gradients = self._minibatch(images, labels, logical, step)
        for total, part in zip(
            [self._loss_sum, *self._sums, *self._moving_sums], [value, *gradients, *self._moving], strict=True
        ):
            total.assign_add(part)

    def _last_minibatch(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        logical: tf.Tensor,
        step: tf.Tensor,
        rate: tf.Tensor,
        code: tf.Tensor,
    ) -> tf.Tensor:
        value, gradients = self._minibatch(images, labels, logical, step)
        moving = [variable.read_value() for variable in self._moving]
        if self._sums:
            value += self._loss_sum
            gradients = [total + gradient for total, gradient in zip(self._sums, gradients, strict=True)]
            moving = [total + last for total, last in zip(self._moving_sums, moving, strict=True)]
        alone = self._ring.size == 1  # which sends nothing, and a clock would have a GPU wait
        computed = 0.0 if alone else _now(after=gradients)
        summed = self._ring.sum_gradients(gradients)
        told = self._ring.sum_tensor(tf.stack([value, code]), "told")
        averages = [self._ring.sum_tensor(total, f"moving_{number}") for number, total in enumerate(moving)]
        communicated = 0.0 if alone else _now(after=[*summed, told, *averages])
        norm = self._apply(summed, rate)
        for variable, total in zip(self._moving, averages, strict=True):
            variable.assign(total / self._num_logical)
        for total in [self._loss_sum, *self._sums, *self._moving_sums]:
            total.assign(tf.zeros_like(total))
        waited = tf.cast(communicated - computed, tf.float32)
        return tf.concat([told, [norm, waited]], axis=0)

    def _apply_sums(self, summed: Sequence[tf.Tensor], rate: tf.Tensor) -> tf.Tensor:
        """Take the optimizer's step, and tell the norm of the gradients."""
        self._optimizer.learning_rate.assign(rate)
        self._optimizer.apply(summed, self._trainable)
        return tf.linalg.global_norm(summed)


def _sum(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum, a tensor of its own: who waits for what a function returned waits for nothing, once it is inlined."""
    return tf.add_n(parts) if len(parts) > 1 else tf.identity(parts[0])


def _now(after: Sequence[tf.Tensor]) -> tf.Tensor:
    """The time in seconds when these tensors are there, on a GPU as well.

    A GPU's operation is over for those that wait for it when its kernel is enqueued, not when it is done. So one number
    is taken to the processor, which TensorFlow copies when all that was enqueued before is done
    (`GPUUtil::CopyGPUTensorToCPU` waits for the stream).
    """
    with tf.control_dependencies(after):
        number = tf.reshape(after[0], [-1])[0]
    # TensorFlow's own timestamp is refused where all must be deterministic.
    return tf.numpy_function(lambda _: time.perf_counter(), [number], tf.float64)
