"""Segment: whole scans as fast as the machine can, averaged over flips and planes where that is asked for.

`Predictor` is for scores, which must not depend on the machine. Here batches are as large as memory allows, and a
thread lays out its slices while another computes. For many scans the weights are constants of the graph, so that what
is made of them is made once. Results are `Predictor`'s within the rounding of the precision that both compute in.
"""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from r2d2 import config, imgmed, models
from r2d2.data.framing import frame_of
from r2d2.data.prepare import frame_normalized, normalized
from r2d2.errors import WorkFailed
from r2d2.inference.memory import SHARE, batch_size, free_bytes
from r2d2.inference.predict import check_scan

MOST_THREADS = 4
"""That compute side by side on CPUs, each a batch of its own; more share operations, too. A GPU has one."""
FROZEN_COPIES, FROZEN_BYTES = 12, 1 << 30
"""How often TensorFlow copies constants while it makes a graph of them, and more than it can write down."""
FLIPS = ((), (1,), (2,), (1, 2))
"""Axes of a stack of images that are turned round: none, rows, columns, both."""


@dataclass(frozen=True)
class Segmentation:
    """What the network says of a scan, on the scan's own grid.

    Attributes:
        mask: (X, Y, Z) uint8.
        probabilities: (X, Y, Z, C) float32, the classes in their order, if they were asked for.
    """

    mask: imgmed.Volume
    probabilities: imgmed.Volume | None


class Segmenter:
    """A trained network that segments scans.

    Args:
        network: As `models.build` makes it, in the precision that it is to compute in; its weights must stay as they
            are.
        preprocess: The settings that its training images were made with.
        flips: Whether to average the probabilities over the slices' flips along rows, columns and both.
        planes: Whether to average them over slices along all three axes.
        many: Whether many scans will come: then the network is frozen, if there is room, which takes a second (7.8
            million weights) to six (31) and pays after ten scans or so.
    """

    def __init__(
        self,
        network: keras.Model,
        preprocess: config.Preprocess,
        flips: bool = False,
        planes: bool = False,
        many: bool = False,
    ) -> None:
        self.preprocess, self.num_channels = preprocess, network.input_shape[-1]
        self.num_classes: int = network.output_shape[-1]
        others = (plane for plane in imgmed.PLANES if plane != preprocess.plane)
        self._planes = (preprocess.plane, *others) if planes else (preprocess.plane,)
        self._flips = FLIPS if flips else FLIPS[:1]
        weights = sum(4 * math.prod(weight.shape) for weight in network.weights)
        room = weights < FROZEN_BYTES and FROZEN_COPIES * weights < SHARE * free_bytes()
        self._forward = _forward(network, frozen=many and room)
        gpu = bool(tf.config.list_physical_devices("GPU"))
        self._batch = batch_size(network)
        self._threads = 1 if gpu else min(MOST_THREADS, len(os.sched_getaffinity(0)), self._batch)

    def images(self, scan: imgmed.Volume, source: Path) -> np.ndarray:
        """A scan's slices as the network sees them, (slices, rows, columns, channels); `source` is what errors call it.

        Raises:
            InputError: As `check_scan`.
        """
        check_scan(scan, source, self.preprocess, self.num_channels)
        canonical = imgmed.to_canonical(scan)
        return frame_normalized(normalized(canonical, self.preprocess), self._frame(canonical), self.preprocess)

    def passes(self, scan: imgmed.Volume) -> int:
        """How often `segment` will call `advance`."""
        shape = imgmed.to_canonical(scan).data.shape
        return sum(shape[imgmed.PLANES[plane]] for plane in self._planes)

    def segment(
        self,
        scan: imgmed.Volume,
        images: np.ndarray,
        probabilities: bool = False,
        advance: Callable[..., None] = lambda: None,
    ) -> Segmentation:
        """Segment a scan.

        Args:
            scan: The scan as it was read.
            images: `self.images` of it.
            probabilities: Whether they are wanted; without them, and without averaging over planes, there is never room
                taken for those of more than a batch.
            advance: Called after every slice of every plane.

        Raises:
            WorkFailed: There is not enough memory for a single slice.
        """
        canonical = imgmed.to_canonical(scan)
        if not probabilities and len(self._planes) == 1:
            frame = self._frame(canonical)
            labels = np.empty((len(images), *frame.native), np.uint8)

            def label(part: slice) -> None:
                labels[part] = imgmed.unframe_labels(self._probabilities(images[part]), frame)

            self._each(label, len(images), advance)
            mask = imgmed.from_slices(labels, self.preprocess.plane)
            return Segmentation(imgmed.from_canonical(mask, like=scan), None)
        mean = self._mean(canonical, images, advance)
        labels = np.stack([plane.argmax(axis=-1).astype(np.uint8) for plane in mean])
        return Segmentation(
            imgmed.from_canonical(labels, like=scan),
            imgmed.from_canonical(mean, like=scan) if probabilities else None,
        )

    def _mean(self, canonical: imgmed.Volume, images: np.ndarray, advance: Callable[..., None]) -> np.ndarray:
        """The probabilities, (X, Y, Z, C) float32, averaged over the planes whose images reach a voxel."""
        shape = canonical.data.shape[:3]
        total = np.zeros((*shape, self.num_classes), np.float32)
        reached = np.zeros(shape, np.uint8)
        data = normalized(canonical, self.preprocess) if len(self._planes) > 1 else None
        for plane in self._planes:
            preprocess = self.preprocess.model_copy(update={"plane": plane})
            frame = frame_of(canonical, preprocess)
            if data is not None and plane != self.preprocess.plane:
                images = frame_normalized(data, frame, preprocess)
            # Of one plane all is taken, so that the mask is the same whether probabilities are wanted or not.
            rows, columns = imgmed.shown(frame) if len(self._planes) > 1 else (slice(None), slice(None))
            sums, counts = (imgmed.to_slices(array, plane)[:, rows, columns] for array in (total, reached))
            counts += 1

            def add(
                part: slice,
                images: np.ndarray = images,
                frame: imgmed.Frame = frame,
                sums: np.ndarray = sums,
                shown: tuple[slice, slice] = (rows, columns),
            ) -> None:
                found = imgmed.unframe_probabilities(self._probabilities(images[part]), frame)
                sums[part] += found[:, shown[0], shown[1]]

            self._each(add, len(images), advance)
        if len(self._planes) > 1:
            total[..., 0] += reached == 0
            total /= np.maximum(reached, 1)[..., np.newaxis]
        return total

    def _frame(self, canonical: imgmed.Volume) -> imgmed.Frame:
        return frame_of(canonical, self.preprocess)

    def _probabilities(self, images: np.ndarray) -> np.ndarray:
        """(n, rows, columns, C) float32, averaged over flips."""
        images = images.astype(np.float32, copy=False)
        found = [np.flip(self._forward(np.flip(images, axes)), axes) for axes in self._flips]
        return found[0] if len(found) == 1 else np.mean(found, axis=0)

    def _each(self, work: Callable[[slice], None], count: int, advance: Callable[..., None]) -> None:
        """Do work on all of so many slices, in parts, on all threads."""

        def do(part: slice) -> int:
            self._within_memory(work, part)
            return part.stop - part.start

        size = max(1, self._batch // self._threads)
        parts = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        with ThreadPoolExecutor(self._threads) as pool:
            for done in pool.map(do, parts):
                for _ in range(done):
                    advance()

    def _within_memory(self, work: Callable[[slice], None], part: slice) -> None:
        """Do work on a part, or where memory does not suffice on half of it and then the other, and remember."""
        size = part.stop - part.start
        if size > self._batch:
            for half in _halves(part):
                self._within_memory(work, half)
            return
        try:
            work(part)
        except tf.errors.ResourceExhaustedError:
            if size == 1:
                raise WorkFailed("not enough memory to predict a single slice; close what else uses it") from None
            self._batch = size // 2
            self._within_memory(work, part)


def _forward(network: keras.Model, frozen: bool) -> Callable[[np.ndarray], np.ndarray]:
    """A network as a function from images (n, rows, columns, channels) float32 to probabilities.

    Frozen, its weights are constants, which TensorFlow casts and lays out once and not for every batch. The softmax is
    taken class by class, each a plane of its own: along so short an axis TensorFlow's takes a tenth of the time.
    """
    network = models.logits(network)
    learned = [variable.numpy() for variable in network.trainable_variables] if frozen else []
    others = [variable.numpy() for variable in network.non_trainable_variables] if frozen else []
    spec = tf.TensorSpec((None, *network.input_shape[1:]), tf.float32)

    @tf.function(autograph=False, input_signature=[spec])
    def forward(images: tf.Tensor) -> tf.Tensor:
        if not frozen:
            return _softmax(network(images, training=False))
        values = ([tf.constant(value) for value in some] for some in (learned, others))
        return _softmax(network.stateless_call(*values, images, training=False)[0])

    return lambda images: np.moveaxis(forward(tf.constant(images)).numpy(), 0, -1)


def _softmax(scores: tf.Tensor) -> tf.Tensor:
    """(n, rows, columns, C) scores as (C, n, rows, columns) probabilities."""
    planes = tf.transpose(scores, (3, 0, 1, 2))
    exponentials = tf.exp(planes - tf.reduce_max(planes, axis=0))
    return exponentials / tf.reduce_sum(exponentials, axis=0)


def _halves(part: slice) -> Iterator[slice]:
    middle = (part.start + part.stop) // 2
    yield slice(part.start, middle)
    yield slice(middle, part.stop)
