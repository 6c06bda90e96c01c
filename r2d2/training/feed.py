"""Which images every worker takes, in which order, and how they reach it.

There is one global order of all training slices for each (seed, epoch). It is cut into global batches, and each global
batch into one consecutive share a worker. So the k-th global batch holds the same images on any number of workers.
"""

import numpy as np
import tensorflow as tf

from r2d2.data.prepare import Prepared


def global_order(seed: int, epoch: int, num_slices: int) -> np.ndarray:
    """A permutation of range(num_slices), (num_slices,) int64, that depends on (seed, epoch) alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_slices)


def share(global_batch: int, size: int, rank: int) -> slice:
    """The part of a global batch that worker `rank` of `size` takes; parts differ by at most one image.

    >>> [share(8, 3, rank) for rank in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
    """
    each, more = divmod(global_batch, size)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))


def batches(order: np.ndarray, global_batch: int, size: int, rank: int) -> np.ndarray:
    """The rows of `order` that a worker takes, (steps, images of its share).

    Every worker has the same number of steps; the last, incomplete global batch of an epoch is left out, and since the
    order is new in every epoch, other images are left out each time.
    """
    steps = len(order) // global_batch
    return order[: steps * global_batch].reshape(steps, global_batch)[:, share(global_batch, size, rank)]


def epoch(prepared: Prepared, rows: np.ndarray) -> tf.data.Dataset:
    """One epoch of one worker.

    Args:
        prepared: The prepared slices.
        rows: (steps, images) rows of the prepared arrays, as `batches` gives them.

    Returns:
        `steps` pairs of images (images, H, W, C) float32 and labels (images, H, W) uint8, read ahead of use.
    """
    images, labels = prepared.images, prepared.masks

    def read(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # In the order of the file, so that a cold disk reads forward; then back in the order asked for.
        forward = np.argsort(batch)
        back = np.argsort(forward)
        return images[batch[forward]][back].astype(np.float32), labels[batch[forward]][back]

    def shaped(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = tf.numpy_function(read, [batch], (tf.float32, tf.uint8))
        return tf.ensure_shape(x, (rows.shape[1], *images.shape[1:])), tf.ensure_shape(
            y, (rows.shape[1], *labels.shape[1:])
        )

    return tf.data.Dataset.from_tensor_slices(rows).map(shaped).prefetch(4)
