"""What the ranks of `test_ring.py` do; a module of its own, because other processes import it."""

import numpy as np

from r2d2 import config
from r2d2.data.prepare import open_prepared


def learn(prepared_folder, cases, experiments, without_allreduce=False):
    """Train each experiment for an epoch on this rank; return weights, loss and confusions by experiment."""
    from r2d2.training import device

    device.limit_threads(1)
    from r2d2.inference import Predictor
    from r2d2.training.learner import Learner
    from r2d2.training.ring import Ring
    from r2d2.training.state import State

    ring = Ring()
    if without_allreduce:
        ring.sum_gradients = list
    prepared = open_prepared(prepared_folder)
    results = []
    for text in experiments:
        learner = Learner(config.parse(text), prepared, cases, ring)
        ring.broadcast(learner.variables)
        state = State()
        learner.start(state)
        row = learner.epoch(state)
        predictor = Predictor(learner.model, learner.experiment.preprocess)
        mine = predictor.confusions(prepared, prepared.cases, ring.rank, ring.size)
        results.append(
            {
                "weights": np.concatenate([np.ravel(w) for w in learner.model.get_weights()]),
                "loss": row["train/loss"],
                "steps": learner.steps_per_epoch,
                "confusions": ring.sum(mine, "confusions"),
                "confusions_of_one": predictor.confusions(prepared, prepared.cases),
                "dropout_seed": _dropout_seed(learner.experiment, prepared, cases, ring),
            }
        )
    ring.close()
    return results


def _dropout_seed(experiment, prepared, cases, ring):
    """The seed of this rank's random states after the start of a network with dropout."""
    from r2d2.training.learner import Learner
    from r2d2.training.state import State

    settings = experiment.model_copy(update={"model": config.DistUNet(filters=4, depth=1, dropout=0.5)})
    dropping = Learner(settings, prepared, cases, ring)
    ring.broadcast(dropping.variables)
    dropping.start(State())
    return next(v.numpy() for v in dropping.model.variables if v.name == "seed_generator_state")
