"""What the ranks of `test_ring.py` and `test_gpu.py` do; a module of its own, because other processes import it."""

import os

import numpy as np

from r2d2 import config
from r2d2.data.prepare import open_prepared
from r2d2.lean import import_keras_alone


def learn(
    prepared_folder, cases, experiments, without_allreduce=False, deterministic=False, timeline=None, fusion_mb=64.0
):
    """Train each experiment for an epoch on this rank; weights and losses of each, confusions of the first."""
    share_gpus()
    import_keras_alone()
    from r2d2.training import device

    device.limit_threads(1, deterministic=deterministic)
    from r2d2.inference import Predictor
    from r2d2.training.learner import Learner
    from r2d2.training.ring import Ring
    from r2d2.training.state import State

    first = Ring(config.Ring(timeline=timeline is not None, fusion_mb=fusion_mb), deterministic, timeline)
    device.use_gpu(first.local_rank)
    prepared = open_prepared(prepared_folder)
    results = []
    for text in experiments:
        experiment = config.parse(text)
        ring = Ring(experiment.training.ring)  # Horovod has begun and keeps its own settings
        if without_allreduce:
            ring.sum_gradients = list
        learner = Learner(experiment, prepared, cases, ring)
        ring.broadcast(learner.variables)
        state = State()
        learner.start(state)
        told = [learner.step(state, code=ring.rank) for _ in range(learner.total_steps)]
        row = learner.end_epoch(state)
        results.append(
            {
                "weights": np.concatenate([np.ravel(v.numpy()) for v in learner.variables if "seed" not in v.name]),
                "losses": [one.loss for one in told],
                "norms": [one.gradient_norm for one in told],
                "codes": {one.code for one in told},
                "loss": row["train/loss"],
                "steps": learner.steps_per_epoch,
            }
        )
        if len(results) == 1:
            predictor = Predictor(learner.model, learner.experiment.preprocess)
            mine = predictor.confusions(prepared, prepared.cases, ring.rank, ring.size)
            results[0] |= {
                "confusions": ring.sum(mine, "confusions"),
                "confusions_of_one": predictor.confusions(prepared, prepared.cases),
            }
    ring.close()
    return results


def share_gpus():
    """Before TensorFlow is imported, where there are GPUs: float32 to its last digit, and several ranks on one GPU.

    NCCL refuses two ranks of a host on one GPU. So each rank is a host of its own to it, which it speaks to by sockets.
    """
    os.environ |= {"NVIDIA_TF32_OVERRIDE": "0", "NCCL_HOSTID": f"rank {os.environ.get('HOROVOD_RANK', 0)}"}


def sum_on_gpu():
    """This rank's number and 1000 on its GPU, summed over the ring: the sums, and on which device they are."""
    share_gpus()
    import_keras_alone()
    import tensorflow as tf

    from r2d2.training import device
    from r2d2.training.ring import Ring

    ring = Ring()
    device.use_gpu(ring.local_rank)
    tf.config.set_soft_device_placement(False)  # an operation that the GPU has not is an error

    @tf.function
    def summed():
        with tf.device("GPU:0"):
            return ring.sum_gradients([tf.fill([1000], float(ring.rank)), tf.fill([3, 5], 1000.0)])

    found = summed()
    ring.close()
    return [(one.numpy(), one.device) for one in found]
