"""Losses from logits, one number an image.

A batch's loss is the mean over its images, and what is a quotient is computed within each image, so that the gradient
of two workers with b images each equals that of one worker with 2b. Weights of classes are fixed numbers, never taken
from a batch, for the same reason. All is computed in float32, with the classes as the first axis: sums over a few
neighbouring numbers cost processors far more than sums of whole images.
"""

from collections.abc import Callable, Sequence
from functools import partial

import keras
from keras import ops

from r2d2 import config

Loss = Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]
Weights = Sequence[float] | None
"""A weight for each class, or None: all count alike."""


def cross_entropy(labels: keras.KerasTensor, logits: keras.KerasTensor, weights: Weights = None) -> keras.KerasTensor:
    """Mean over the pixels of the cross-entropy, in nats, each pixel times the weight of its class.

    Args:
        labels: (N, H, W) integers, the class of every pixel.
        logits: (N, H, W, C) float32.
        weights: Of the C classes. The mean is over the number of pixels, not over their weights: an image of a rare
            class' pixels then counts for more than one without.

    Returns:
        (N,) float32.
    """
    return _cross_entropy(*_by_class(labels, logits), weights)


def focal(
    labels: keras.KerasTensor, logits: keras.KerasTensor, gamma: float = 2.0, weights: Weights = None
) -> keras.KerasTensor:
    """Mean over the pixels of the focal loss -(1 - p)^gamma log p (Lin et al. 2017).

    p is the probability of the pixel's own class. Gamma 0 is the cross-entropy. `weights` are the paper's alpha, one a
    class. Other arguments and the result as in `cross_entropy`.
    """
    reference, logarithms = _by_class(labels, logits)
    losses = -ops.sum(reference * logarithms, axis=0)
    # Where p rounds to 1, a power below 1 would have an infinite slope.
    doubt = ops.maximum(-ops.expm1(-losses), 1e-7)
    if weights is not None:
        losses = losses * ops.sum(reference * _column(weights), axis=0)
    return ops.mean(doubt**gamma * losses, axis=(1, 2))


def tversky(
    labels: keras.KerasTensor,
    logits: keras.KerasTensor,
    alpha: float = 0.3,
    beta: float = 0.7,
    weights: Weights = None,
) -> keras.KerasTensor:
    """1 minus the soft Tversky index TP / (TP + alpha FP + beta FN), mean over foreground classes (Salehi et al. 2017).

    Half a pixel is added above and below, so that a class in neither mask counts as matched and has a gradient.
    `alpha` weighs what is predicted too much, `beta` what is missed; 0.5 each is `dice`. The mean over the classes is
    one by `weights`. Other arguments and the result as in `cross_entropy`.
    """
    return _tversky(*_by_class(labels, logits), alpha, beta, weights)


def dice(labels: keras.KerasTensor, logits: keras.KerasTensor, weights: Weights = None) -> keras.KerasTensor:
    """1 minus the soft Dice, mean over the foreground classes (Milletari et al. 2016, without the squares).

    One pixel is added above and below. Arguments and result as in `tversky`.
    """
    return tversky(labels, logits, 0.5, 0.5, weights)


def dice_cross_entropy(
    labels: keras.KerasTensor, logits: keras.KerasTensor, weights: Weights = None
) -> keras.KerasTensor:
    """The sum of `dice` and `cross_entropy` (Isensee et al. 2021)."""
    by_class = _by_class(labels, logits)
    return _tversky(*by_class, 0.5, 0.5, weights) + _cross_entropy(*by_class, weights)


LOSSES: dict[str, Callable[..., keras.KerasTensor]] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "dice_cross_entropy": dice_cross_entropy,
    "focal": focal,
    "tversky": tversky,
}
"""Every loss by the name it has in an experiment file."""


def build(training: config.Training, weights: Weights = None) -> Loss:
    """The loss of an experiment: of labels and logits, with the experiment's parameters inside.

    Args:
        training: The experiment's `training` section.
        weights: What `r2d2.data.fingerprint.class_weights` makes of its `class_weights`.
    """
    parameters = {
        "focal": {"gamma": training.focal_gamma},
        "tversky": {"alpha": training.tversky_alpha, "beta": training.tversky_beta},
    }
    return partial(LOSSES[training.loss], weights=weights, **parameters.get(training.loss, {}))


def _by_class(labels: keras.KerasTensor, logits: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Where each class is, 0 or 1, and the logarithms of its probabilities: (C, N, H, W) float32 both."""
    scores = ops.transpose(logits, (3, 0, 1, 2))
    scores = scores - ops.stop_gradient(ops.max(scores, axis=0))
    logarithms = scores - ops.log(ops.sum(ops.exp(scores), axis=0))
    return ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1], axis=0, dtype="float32"), logarithms


def _cross_entropy(reference: keras.KerasTensor, logarithms: keras.KerasTensor, weights: Weights) -> keras.KerasTensor:
    pixels = reference * logarithms
    pixels = pixels if weights is None else pixels * _column(weights)
    return -ops.mean(ops.sum(pixels, axis=0), axis=(1, 2))


def _tversky(
    reference: keras.KerasTensor, logarithms: keras.KerasTensor, alpha: float, beta: float, weights: Weights
) -> keras.KerasTensor:
    probabilities = ops.exp(logarithms)
    overlap = ops.sum(probabilities * reference, axis=(2, 3))
    too_much = ops.sum(probabilities, axis=(2, 3)) - overlap
    missed = ops.sum(reference, axis=(2, 3)) - overlap
    # Without the background; left out of so few numbers only, which costs nothing.
    index = ((2.0 * overlap + 1.0) / (2.0 * (overlap + alpha * too_much + beta * missed) + 1.0))[1:]
    if weights is None:
        return 1.0 - ops.mean(index, axis=0)
    foreground = ops.reshape(ops.convert_to_tensor(weights, "float32")[1:], (-1, 1))
    return 1.0 - ops.sum(index * foreground, axis=0) / ops.sum(foreground)


def _column(weights: Sequence[float]) -> keras.KerasTensor:
    """Weights of classes along the first of four axes."""
    return ops.reshape(ops.convert_to_tensor(weights, "float32"), (-1, 1, 1, 1))
