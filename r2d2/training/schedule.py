"""The learning rate of every step: linear scaling, gradual warm-up, decay."""

import math

from r2d2 import config


def learning_rate(training: config.Training, workers: int, steps_per_epoch: int, step: int) -> float:
    """The rate that step number `step` of a run (from 0) is taken with.

    `scaling: linear` multiplies the base rate by the number of workers, once. The warm-up climbs step by step from the
    base rate to the scaled one over the first `warmup_epochs` epochs (Goyal et al. 2017, sections 2.1 and 2.2); where
    both are equal, as at one worker, there is nothing to climb. `decay: cosine` then falls towards zero, which the step
    after the last one would have.
    """
    base = training.learning_rate
    scaled = base * workers if training.scaling == "linear" else base
    warmup_steps = round(training.warmup_epochs * steps_per_epoch) if scaled != base else 0
    if step < warmup_steps:
        return base + (scaled - base) * (step + 1) / warmup_steps
    if training.decay == "constant":
        return scaled
    total = training.epochs * steps_per_epoch
    progress = (step - warmup_steps) / max(1, total - warmup_steps)
    return scaled * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
