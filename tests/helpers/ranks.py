"""What the ranks of `test_ring.py` do; a module of its own, because other processes import it."""

import numpy as np

from r2d2 import config
from r2d2.data.prepare import open_prepared
from r2d2.lean import import_keras_alone


def learn(
    prepared_folder, cases, experiments, without_allreduce=False, deterministic=False, timeline=None, fusion_mb=64.0
):
    """Train each experiment for an epoch on this rank; weights and losses of each, confusions of the first."""
    import_keras_alone()
    from r2d2.training import device

    device.limit_threads(1, deterministic=deterministic)
    from r2d2.inference import Predictor
    from r2d2.training.learner import Learner
    from r2d2.training.ring import Ring
    from r2d2.training.state import State

    Ring(config.Ring(timeline=timeline is not None, fusion_mb=fusion_mb), deterministic, timeline)
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
