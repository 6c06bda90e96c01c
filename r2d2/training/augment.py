"""Augmentation of whole batches in TensorFlow: the same draws as `r2d2.imgmed.augment` applies one by one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from r2d2.imgmed import augment as single


class Draws(NamedTuple):
    """The draws of a batch, stacked; arrays of NumPy or TensorFlow, float32. See `imgmed.Draw`.

    Attributes:
        matrix: (n, 2, 3).
        elastic: (n, 2, k, k).
        gamma: (n,).
        bias: (n, k, k).
        noise: (n, H, W, C), the numbers themselves; (n, 1, 1, 1) where there is none.
    """

    matrix: Any
    elastic: Any
    gamma: Any
    bias: Any
    noise: Any


def stack(draws: Sequence[single.Draw], ranges: single.Ranges, channels: int) -> Draws:
    """The draws of a batch as arrays, the noise already drawn: the same numbers as NumPy's."""
    return Draws(
        np.stack([draw.matrix for draw in draws]),
        np.stack([draw.elastic for draw in draws]),
        np.array([draw.gamma for draw in draws], np.float32),
        np.stack([draw.bias for draw in draws]),
        np.stack(
            [single.noise(draw, channels) if ranges.noise[1] else np.zeros((1, 1, 1), np.float32) for draw in draws]
        ),
    )


def augment(images: tf.Tensor, masks: tf.Tensor, draws: Draws, ranges: single.Ranges) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a batch after its draws; see `imgmed.augment.apply`.

    Args:
        images: (n, H, W, C) float32, of known shape.
        masks: (n, H, W) uint8.
        draws: Of these images.
        ranges: What they were drawn from; what is off there is not computed.
    """
    images, masks = _resample(images, masks, draws, bool(ranges.elastic))
    if ranges.gamma != (1.0, 1.0) or ranges.bias:
        images = _intensities(images, draws)
    return images + draws.noise, masks


def _resample(images: tf.Tensor, masks: tf.Tensor, draws: Draws, elastic: bool) -> tuple[tf.Tensor, tf.Tensor]:
    n, height, width, channels = images.shape
    x = tf.range(width, dtype=tf.float32)[None, None, :]
    y = tf.range(height, dtype=tf.float32)[None, :, None]
    if elastic:
        displaced = _smooth_field(draws.elastic, height, width)
        x, y = x + displaced[:, 0], y + displaced[:, 1]
    (a, b, c), (d, e, f) = (tf.unstack(row[..., None, None], axis=1) for row in tf.unstack(draws.matrix, axis=1))
    # A margin of one pixel of 0 takes all that lies outside.
    across = tf.clip_by_value(a * x + (b * y + c), -1.0, float(width)) + 1.0
    down = tf.clip_by_value(d * x + (e * y + f), -1.0, float(height)) + 1.0
    stride = width + 2
    first = (tf.range(n) * ((height + 2) * stride))[:, None, None]
    margin = [[0, 0], [1, 1], [1, 1]]

    labels = tf.reshape(tf.pad(masks, margin), [-1])
    masks = tf.gather(labels, first + _integers(tf.round(down)) * stride + _integers(tf.round(across)))

    left, top = tf.minimum(tf.floor(across), float(width)), tf.minimum(tf.floor(down), float(height))
    right_part, bottom_part = (across - left)[..., None], (down - top)[..., None]
    corner = first + _integers(top) * stride + _integers(left)
    pixels = tf.reshape(tf.pad(images, [*margin, [0, 0]]), [-1, channels])

    def line(offset: int) -> tf.Tensor:
        before, after = tf.gather(pixels, corner + offset), tf.gather(pixels, corner + offset + 1)
        return before + (after - before) * right_part

    upper, lower = line(0), line(stride)
    return upper + (lower - upper) * bottom_part, masks


def _intensities(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    _, height, width, _ = images.shape
    low = tf.reduce_min(images, axis=(1, 2), keepdims=True)
    span = tf.reduce_max(images, axis=(1, 2), keepdims=True) - low
    span = tf.where(span > 0.0, span, 1.0)
    field = tf.exp(_smooth_field(draws.bias, height, width))[..., None]
    gamma = draws.gamma[:, None, None, None]
    changed = low + span * ((images - low) / span) ** gamma * field
    touched = (gamma != 1.0) | tf.reduce_any(draws.bias != 0.0, axis=(1, 2))[:, None, None, None]
    return tf.where(touched, changed, images)


def _smooth_field(points: tf.Tensor, height: int, width: int) -> tf.Tensor:
    cells = points.shape[-1] - 3
    return tf.constant(single.splines(height, cells)) @ points @ tf.constant(single.splines(width, cells).T)


def _integers(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(values, tf.int32)
