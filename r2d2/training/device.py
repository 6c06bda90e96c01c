"""What a worker takes of its node: so many threads, one GPU. Before TensorFlow's first operation."""

import gc
import os

import keras
import tensorflow as tf

from r2d2 import config

MOST_LANES = 8
"""Each lane is a part of the graph of its own, and many take long to compile."""


def gpus() -> int:
    """How many GPUs this process may choose of: those of its node, if it takes one."""
    return len(tf.config.list_physical_devices("GPU"))


def xla(training: config.Training) -> bool:
    """Whether XLA compiles the step: where it is asked for, else on GPUs, but not bit by bit alike: it tries and times.

    What it tries are the library's ways to convolve; which one is fastest may differ from run to run.
    """
    if training.xla is not None:
        return training.xla
    return gpus() > 0 and not training.deterministic


def told(training: config.Training) -> str:
    """What computes, in words: `CPU`, `GPU`, `GPU, XLA`."""
    return ("GPU" if gpus() else "CPU") + (", XLA" if xla(training) else "")


def lanes(experiment: config.Experiment, threads: int) -> int:
    """How many lanes share a minibatch: one a thread, or one.

    Networks that normalize over the minibatch need it whole, and so does XLA; a GPU is faster with it.
    """
    whole = xla(experiment.training) or getattr(experiment.model, "normalization", "none") == "batch"
    whole = whole or threads > MOST_LANES or experiment.training.batch_size % threads > 0
    if whole or gpus():
        return 1
    return threads


def limit_threads(threads: int, lanes: int = 1, deterministic: bool = False) -> None:
    """Compute with so many threads, in so many lanes; what waits for input and for the ring has one more.

    `deterministic`: on GPUs, too.
    """
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    inside = threads // lanes
    os.environ["OMP_NUM_THREADS"] = str(inside)
    tf.config.threading.set_intra_op_parallelism_threads(inside)
    tf.config.threading.set_inter_op_parallelism_threads(lanes + 1)


def use_gpu(local_rank: int) -> None:
    """Take the node's GPU number `local_rank`, its memory as needed; without GPUs do nothing."""
    if there := tf.config.list_physical_devices("GPU"):
        mine = there[local_rank % len(there)]
        tf.config.set_visible_devices(mine, "GPU")
        tf.config.experimental.set_memory_growth(mine, True)


def ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The batches, on the GPU before they are asked for, where there is one."""
    if not gpus():
        return batches
    return batches.apply(tf.data.experimental.prefetch_to_device("GPU:0", buffer_size=2))


def forget() -> None:
    """Let go of what a training that is over has left: its graphs, names and memory."""
    keras.backend.clear_session()
    gc.collect()
