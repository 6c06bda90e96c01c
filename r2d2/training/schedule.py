"""The learning rate of every step: scaling, gradual warm-up, decay; and how many steps there are."""

import math

from r2d2 import config


def total_steps(training: config.Training, steps_per_epoch: int, num_slices: int) -> int:
    """How many updates a run makes.

    Args:
        training: The experiment's `training` section.
        steps_per_epoch: Global batches in an epoch.
        num_slices: Images to train on; with `updates: same-updates` one worker's epochs of them are counted.
    """
    if training.updates == "same-updates":
        return training.epochs * (num_slices // training.batch_size)
    return training.epochs * steps_per_epoch


def learning_rate(training: config.Training, workers: int, steps_per_epoch: int, total: int, step: int) -> float:
    """The rate that step number `step` (from 0) of `total` is taken with.

    `scaling` multiplies the base rate, once, by the number of logical workers or by its root (Krizhevsky 2014). The
    warm-up climbs step by step from the base rate to the scaled one over the first `warmup_epochs` epochs (Goyal et
    al. 2017, sections 2.1 and 2.2) or `warmup_steps` steps; where both rates are equal, as at one worker, there is
    nothing to climb. With `warmup_from: zero` it climbs from zero, whatever is scaled. `decay` then falls towards zero,
    which the step after the last one would have.
    """
    base = training.learning_rate
    scaled = base * {"linear": workers, "sqrt": math.sqrt(workers), "none": 1}[training.scaling]
    asked = training.warmup_steps
    climb = round(training.warmup_epochs * steps_per_epoch) if asked is None else asked
    lowest = base if training.warmup_from == "base" else 0.0
    if scaled == lowest:
        climb = 0
    if step < climb:
        return lowest + (scaled - lowest) * (step + 1) / climb
    left = 1.0 - min(1.0, (step - climb) / max(1, total - climb))
    if training.decay == "cosine":
        return scaled * 0.5 * (1.0 - math.cos(math.pi * left))
    return scaled * (left**training.decay_power if training.decay == "polynomial" else 1.0)
