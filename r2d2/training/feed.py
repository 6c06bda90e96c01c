"""Which images every worker takes, in which order, and how they reach it.

There is one global order of all training slices for each (seed, epoch). It is cut into global batches, each global
batch into one consecutive minibatch a logical worker, and these are dealt out to the real workers. So the k-th global
batch, and each logical worker's part of it, is the same on any number of real workers.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tensorflow as tf

from r2d2.data.prepare import Prepared
from r2d2.imgmed.augment import Ranges, draw
from r2d2.training import augment


def global_order(seed: int, epoch: int, num_slices: int) -> np.ndarray:
    """A permutation of range(num_slices), (num_slices,) int64, that depends on (seed, epoch) alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_slices)


def share(logical: int, size: int, rank: int) -> range:
    """The logical workers that worker `rank` of `size` is; numbers differ by at most one.

    >>> [share(8, 3, rank) for rank in range(3)]
    [range(0, 3), range(3, 6), range(6, 8)]
    """
    each, more = divmod(logical, size)
    start = rank * each + min(rank, more)
    return range(start, start + each + (rank < more))


@dataclass(frozen=True, eq=False)
class Feed:
    """The images of one worker, step by step, for a whole run.

    Attributes:
        prepared: The prepared slices.
        rows: (slices,) the rows of the prepared arrays to train on.
        seed: Of the global order and of the augmentation.
        batch_size: Images of a logical worker's minibatch.
        num_logical: How many logical workers there are.
        logical: The numbers of those that this worker is, one after another.
        augmentation: What images are augmented with; not at all if None. A row of the prepared arrays is augmented in
            an epoch the same way wherever in a batch, and on whichever worker, it comes up.
    """

    prepared: Prepared
    rows: np.ndarray
    seed: int
    batch_size: int
    num_logical: int
    logical: range
    augmentation: Ranges | None = None

    @property
    def steps_per_epoch(self) -> int:
        """The same for every worker.

        The last, incomplete global batch of an epoch is left out, and since the order is new in every epoch, other
        images are left out each time.
        """
        return len(self.rows) // (self.batch_size * self.num_logical)

    def batch(self, step: int) -> np.ndarray:
        """The rows that this worker takes in step number `step` of the run, from 0."""
        epoch, number = divmod(step, self.steps_per_epoch)
        first = (number * self.num_logical + self.logical.start) * self.batch_size
        return self.rows[self._order(epoch)[first : first + len(self.logical) * self.batch_size]]

    def stream(self, first: int, last: int) -> tf.data.Dataset:
        """Steps `first` to `last - 1` of the run, read ahead of use and across the ends of epochs.

        Returns:
            Pairs of images (n, H, W, C) float32 and labels (n, H, W) uint8: this worker's minibatches.
        """
        images, labels, pixel_mm = self.prepared.images, self.prepared.masks, self.prepared.pixel_mm
        ranges = self.augmentation

        def read(step: np.ndarray) -> tuple[np.ndarray, ...]:
            batch = self.batch(int(step))
            # In the order of the file, so that a cold disk reads forward; then back in the order asked for.
            forward = np.argsort(batch)
            back = np.argsort(forward)
            x, y = images[batch[forward]][back].astype(np.float32), labels[batch[forward]][back]
            if ranges is None:
                return x, y
            epoch, (height, width, channels) = int(step) // self.steps_per_epoch, images.shape[1:]
            draws = [
                draw(ranges, self.seed, epoch, int(row), (height, width), pixel_mm=tuple(pixel_mm[row]))
                for row in batch
            ]
            return x, y, *augment.stack(draws, ranges, channels)

        arrays = read(np.array(first))  # every step's have these types and shapes

        @tf.autograph.experimental.do_not_convert
        def load(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            tensors = tf.numpy_function(read, [step], [array.dtype for array in arrays])
            x, y, *draws = (tf.ensure_shape(tensor, array.shape) for tensor, array in zip(tensors, arrays, strict=True))
            return (x, y) if ranges is None else augment.augment(x, y, augment.Draws(*draws), ranges)

        options = tf.data.Options()
        # There is nothing to tune here, and the tuner's thread holds up the end of the stream for 10 s.
        options.autotune.enabled = False
        return tf.data.Dataset.range(first, last).map(load).prefetch(4).with_options(options)

    @lru_cache(maxsize=2)  # noqa: B019
    def _order(self, epoch: int) -> np.ndarray:
        return global_order(self.seed, epoch, len(self.rows))
