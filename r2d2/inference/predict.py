"""Predict for scores: slices in batches of one size, probabilities back to the scan's own grid, argmax."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from r2d2 import config, imgmed, segeval
from r2d2.data.prepare import Prepared, PreparedCase, to_images
from r2d2.errors import InputError

BATCH, LANES = 16, 4
"""Slices a forward pass, and how many lanes share them. Fixed numbers: a slice's probabilities then depend on nothing
but the slice. Lanes are computed side by side on CPUs; a GPU takes all slices at once."""


class Predictor:
    """A trained network, ready to predict.

    Args:
        network: As `models.build` makes it, in the precision that it is to compute in; it is not copied, so its
            predictions follow its weights.
        preprocess: The settings that its training images were made with.
    """

    def __init__(self, network: keras.Model, preprocess: config.Preprocess) -> None:
        self.preprocess = preprocess
        self.num_classes: int = network.output_shape[-1]
        self.num_channels: int = network.input_shape[-1]
        lane = tf.function(lambda images: network(images, training=False), autograph=False)
        lanes = 1 if tf.config.list_physical_devices("GPU") else LANES

        def forward(images: tf.Tensor) -> tf.Tensor:
            return tf.concat([lane(part) for part in tf.split(images, lanes)], axis=0)

        self._forward = tf.function(forward, autograph=False)

    def labels(self, images: np.ndarray, frame: imgmed.Frame) -> np.ndarray:
        """The most probable class of every pixel.

        Args:
            images: (n, rows, columns, channels), n at most `BATCH`, as `to_images` makes them.
            frame: How the slices lie in the images; probabilities are interpolated linearly.

        Returns:
            (n, *frame.native) uint8, on the grid of the slices.
        """
        full = np.zeros((BATCH, *images.shape[1:]), np.float32)
        full[: len(images)] = images
        probabilities = self._forward(tf.constant(full)).numpy()[: len(images)]
        return imgmed.unframe_labels(probabilities, frame)

    def volume(self, scan: imgmed.Volume, source: Path) -> imgmed.Volume:
        """The label volume of a scan, on the scan's own grid; `source` is what errors call the scan.

        Raises:
            InputError: As `check_scan`.
        """
        check_scan(scan, source, self.preprocess, self.num_channels)
        canonical = imgmed.to_canonical(scan)
        images, frame = to_images(canonical, self.preprocess)
        parts = [self.labels(images[start : start + BATCH], frame) for start in range(0, len(images), BATCH)]
        return imgmed.from_canonical(imgmed.from_slices(np.concatenate(parts), self.preprocess.plane), like=scan)

    def confusions(self, prepared: Prepared, cases: Sequence[PreparedCase], rank: int = 0, size: int = 1) -> np.ndarray:
        """Every slice's confusion matrix on the case's own grid, of the batches that worker `rank` of `size` takes.

        Batches never hold slices of two cases and are the same for any number of workers, so the matrices summed over
        the workers are too.

        Returns:
            (slices, classes, classes) int64, rows = reference, the slices of one case after those of another; zeros
            for slices that another worker takes.
        """
        first = np.cumsum([0, *(case.slices for case in cases)])
        found = np.zeros((first[-1], self.num_classes, self.num_classes), np.int64)
        batches = [(number, start) for number, case in enumerate(cases) for start in range(0, case.slices, BATCH)]
        for number, start in batches[rank::size]:
            case = cases[number]
            stop = min(start + BATCH, case.slices)
            prediction = self.labels(prepared.images[case.first + start : case.first + stop], case.frame)
            reference = prepared.reference(case)[start:stop]
            at = slice(first[number] + start, first[number] + stop)
            found[at] = segeval.confusion_matrices(reference, prediction, self.num_classes, axis=0)
        return found


def check_scan(scan: imgmed.Volume, source: Path, preprocess: config.Preprocess, num_channels: int) -> None:
    """Raise an InputError if a network of so many channels cannot be given a scan.

    It has another number of channels than the network was trained on, or holds NaN or infinity.
    """
    channels = 1 if scan.data.ndim == 3 else scan.data.shape[3]
    wanted = preprocess.channels or range(num_channels)
    if max(wanted) >= channels or (preprocess.channels is None and channels != num_channels):
        raise InputError(f"{source}: {channels} channels, the model needs channels {[*wanted]} (counted from 0)")
    if not np.isfinite(scan.data).all():
        raise InputError(f"{source}: holds voxels of NaN or infinity; intensities must be finite")
