"""Losses from logits, one number an image.

A batch's loss is the mean over its images, and Dice is computed within each image, so that the gradient of two workers
with b images each equals that of one worker with 2b.
"""

from collections.abc import Callable

import keras
from keras import ops

Loss = Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]


def cross_entropy(labels: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Mean over the pixels of the cross-entropy, in nats.

    Args:
        labels: (N, H, W) integers, the class of every pixel.
        logits: (N, H, W, C) float32.

    Returns:
        (N,) float32.
    """
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.mean(losses, axis=(1, 2))


def dice(labels: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """1 minus the soft Dice, mean over the foreground classes (Milletari et al. 2016, without the squares).

    One pixel is added above and below, so that a class in neither mask counts as matched and has a gradient.
    Arguments and result as in `cross_entropy`.
    """
    num_classes = logits.shape[-1]
    probabilities = ops.softmax(logits)[..., 1:]
    reference = ops.one_hot(ops.cast(labels, "int32"), num_classes, dtype="float32")[..., 1:]
    overlap = ops.sum(probabilities * reference, axis=(1, 2))
    sizes = ops.sum(probabilities, axis=(1, 2)) + ops.sum(reference, axis=(1, 2))
    return 1.0 - ops.mean((2.0 * overlap + 1.0) / (sizes + 1.0), axis=-1)


def dice_cross_entropy(labels: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """The sum of `dice` and `cross_entropy` (Isensee et al. 2021)."""
    return dice(labels, logits) + cross_entropy(labels, logits)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "dice_cross_entropy": dice_cross_entropy}
"""Every loss by the name it has in an experiment file."""
