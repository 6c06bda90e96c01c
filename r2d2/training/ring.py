"""The ring of workers: everything that R2D2 asks of Horovod.

Gradients are summed by Horovod's ring-allreduce (Sergeev and Del Balso 2018). Keras 3 variables are handed over as the
TensorFlow variables inside them: Horovod 0.28's own Keras optimizer wrapper reduces nothing under Keras 3.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

from r2d2 import config

HALF_SCALE = 1024.0
"""What gradients are multiplied by before they are rounded to float16, and divided by when they have come."""


class Half(hvd.compression.Compressor):
    """Gradients in float16, which knows numbers from 6e-8 (with all digits 6e-5) to 65504.

    Those of the mean over a global batch's images are often smaller, and optimizers that divide by their size mind what
    is lost. Times `HALF_SCALE` they are told apart from 6e-11 (6e-8) to 64; what is larger becomes infinite, which the
    sentinel stops at.
    """

    @staticmethod
    def compress(tensor: tf.Tensor) -> tuple[tf.Tensor, tf.DType]:
        """The tensor as it travels, and its type."""
        return tf.cast(tensor * HALF_SCALE, tf.float16), tensor.dtype

    @staticmethod
    def decompress(tensor: tf.Tensor, ctx: tf.DType) -> tf.Tensor:
        """What has come, in the type that it had."""
        return tf.cast(tensor, ctx) / HALF_SCALE


COMPRESSIONS = {"none": hvd.Compression.none, "fp16": Half}


class Ring:
    """The workers of one run as seen from one of them: `rank` of `size`, `local_rank` on its node.

    Args:
        settings: How gradients travel.
        deterministic: Sum every gradient by itself, in the same order each time. Which gradients are put together
            depends on timing, and with three ranks or more the order of a sum on its place among them.
        timeline: The file that rank 0 records Horovod's doings in, if the settings ask for it.
    """

    def __init__(
        self, settings: config.Ring | None = None, deterministic: bool = False, timeline: Path | None = None
    ) -> None:
        self._settings = settings or config.Ring()
        fusion = 0 if deterministic else int(self._settings.fusion_mb * 2**20)
        os.environ["HOROVOD_FUSION_THRESHOLD"] = str(fusion)
        # A ring of one has nothing to send: its thread need not look for it a thousand times a second.
        alone = os.environ.get("HOROVOD_SIZE", "1") == "1"
        os.environ["HOROVOD_CYCLE_TIME"] = "100" if alone else str(self._settings.cycle_ms)
        if self._settings.timeline and timeline:
            os.environ["HOROVOD_TIMELINE"] = str(timeline)
        hvd.init()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()

    def sum_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients summed over the workers; for use inside a `tf.function`.

        One allreduce a tensor, so that Horovod fuses and sends the last layers' while the first layers' are computed.
        """
        if self.size == 1:
            return list(gradients)
        if not self._settings.overlap:
            with tf.control_dependencies(gradients):
                gradients = [tf.identity(gradient) for gradient in gradients]
        compression = COMPRESSIONS[self._settings.compression]
        return [
            hvd.allreduce(gradient, op=hvd.Sum, name=f"gradient_{number}", compression=compression)
            for number, gradient in enumerate(gradients)
        ]

    def sum_tensor(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        """A tensor summed over the workers; for use inside a `tf.function`."""
        return hvd.allreduce(tensor, op=hvd.Sum, name=name) if self.size > 1 else tensor

    def broadcast(self, variables: Sequence[keras.Variable]) -> None:
        """Give every worker rank 0's values of Keras variables."""
        if self.size > 1:
            # In place, without a graph, which would take a second to trace.
            hvd.broadcast_variables([variable.value for variable in variables], root_rank=0, inplace=True)

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value of a small Python object, on every worker."""
        return hvd.broadcast_object(value, root_rank=0) if self.size > 1 else value

    def gather_objects(self, value: Any) -> list[Any]:
        """Every worker's value of a small Python object, by rank, on every worker."""
        return hvd.allgather_object(value) if self.size > 1 else [value]

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        """An array summed over the workers, in its own dtype: exact for int64."""
        return hvd.allreduce(tf.constant(array), op=hvd.Sum, name=name).numpy() if self.size > 1 else array

    def close(self) -> None:
        """Leave the ring."""
        hvd.shutdown()
