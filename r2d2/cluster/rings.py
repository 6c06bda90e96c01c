"""Ray's trainer of Horovod rings, for those who read no data through Ray."""

import contextlib

from ray.train import data_parallel_trainer
from ray.train.horovod import HorovodTrainer
from ray.tune.execution import class_cache

# Tune wants variables set that R2D2's clusters have anyway (`r2d2.ENVIRONMENT`), and for that a new process each time;
# without, trainers and workers are those that wait in the cluster.
class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = {}, set()


class RingTrainer(HorovodTrainer):
    """A HorovodTrainer that tells nobody how much of the cluster it has: Ray Data would ask, which is not used.

    Ray keeps these books in an actor of their own, whose start takes two core seconds.
    """

    def training_loop(self) -> None:
        """Run in the trainer's own process."""
        data_parallel_trainer.TrainV1ResourceReservation = lambda **_: contextlib.nullcontext()
        super().training_loop()
