"""One training step of one worker: its share of the gradient, summed over the ring, applied."""

from collections.abc import Callable

import keras
import tensorflow as tf

from r2d2 import config, models
from r2d2.models.losses import LOSSES
from r2d2.training.ring import Ring

Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def build_optimizer(training: config.Training) -> keras.optimizers.Optimizer:
    """The optimizer of an experiment; every step sets its rate anew."""
    if training.optimizer == "adam":
        return keras.optimizers.Adam(training.learning_rate)
    return keras.optimizers.SGD(training.learning_rate, momentum=training.momentum)


def build_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: str, global_batch: int, ring: Ring
) -> Step:
    """The compiled training step of one worker.

    The loss is the mean over the global batch's images. Each worker sums its images' losses and divides by the global
    number, and the ring sums the gradients: exact however unevenly the images are shared out.

    Returns:
        A function of images (n, H, W, C) float32, labels (n, H, W) and the rate, which updates the model and returns
        this worker's part of the global batch's mean loss.
    """
    network, per_image = models.logits(model), LOSSES[loss]
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function(jit_compile=False, autograph=False)
    def step(images: tf.Tensor, labels: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(per_image(labels, network(images, training=True))) / global_batch
        gradients = ring.sum_gradients(tape.gradient(value, variables))
        optimizer.learning_rate.assign(rate)
        optimizer.apply(gradients, model.trainable_variables)
        return value

    return step
