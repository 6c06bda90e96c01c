"""What a worker takes of its node: so many threads, one GPU. Before TensorFlow's first operation."""

import os

import tensorflow as tf


def limit_threads(threads: int, deterministic: bool = False) -> None:
    """Compute with this many threads; two more wait for input and for the ring. `deterministic`: on GPUs, too."""
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)


def use_gpu(local_rank: int) -> None:
    """Take the node's GPU number `local_rank`, its memory as needed; without GPUs do nothing."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        mine = gpus[local_rank % len(gpus)]
        tf.config.set_visible_devices(mine, "GPU")
        tf.config.experimental.set_memory_growth(mine, True)
