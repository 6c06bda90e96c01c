"""The sentinel: tells when a training falls apart."""

import math
from dataclasses import dataclass

from r2d2 import config
from r2d2.training.state import State

SMOOTHING = 0.9
"""Of exponential means, which thus look back some ten steps."""
SETTLING = 20
"""Steps whose values are not compared yet: the first ones swing."""
NEARLY_NONE = 0.01
"""A loss below this is as good as none: what rises from far below it has not fallen apart."""
LOW = 0.1
"""Below this share of the best validation score a network has forgotten what it knew."""


@dataclass(frozen=True)
class Trouble:
    """What is wrong, in words; if it came suddenly, checkpoints `before` this step are from before it."""

    text: str
    before: int | None = None


def after_step(settings: config.Sentinel, state: State, loss: float, gradient_norm: float) -> Trouble | None:
    """What is wrong after a step, or None; the state remembers what was seen.

    Args:
        settings: What is looked at.
        state: The run's, the step counted already.
        loss: The global batch's mean loss.
        gradient_norm: The norm of its gradient.
    """
    for name, value in (("loss", loss), ("norm of the gradient", gradient_norm)):
        if not math.isfinite(value):
            # A loss tells of the weights that the update before has left.
            before = state.step - (not math.isfinite(loss))
            return Trouble(f"the {name} became {value} in step {state.step}", before)
    seen = state.watched
    seen.loss, seen.least_loss = _smoothed(seen.loss, seen.least_loss, loss, state.step)
    seen.gradient, seen.least_gradient = _smoothed(seen.gradient, seen.least_gradient, gradient_norm, state.step)
    least_loss = None if seen.least_loss is None else max(seen.least_loss, NEARLY_NONE)
    for name, value, least, factor in (
        ("loss", seen.loss, least_loss, settings.loss_factor),
        ("norm of the gradient", seen.gradient, seen.least_gradient, settings.gradient_factor),
    ):
        if factor and least is not None and value > factor * least:
            return Trouble(f"the {name} rose to {value:.3g} by step {state.step}, {value / least:.0f} times its least")
    return None


def after_epoch(state: State, broken: int) -> Trouble | None:
    """The same of the weights that an epoch's last step has left, `broken` on so many ranks; no loss told yet."""
    if not broken:
        return None
    return Trouble(f"weights became NaN or infinite in step {state.step}", before=state.step)


def after_validation(settings: config.Sentinel, state: State, score: float) -> Trouble | None:
    """The same after a validation with a score, of which the state knows the best."""
    best = state.best_score or 0.0
    state.watched.low_scores = state.watched.low_scores + 1 if score < LOW * best else 0
    if settings.collapse and state.watched.low_scores >= settings.collapse:
        return Trouble(
            f"the validation Dice collapsed from {best:.3f} to {score:.3f} by step {state.step}, in "
            f"{state.watched.low_scores} validations one after another"
        )
    return None


def _smoothed(mean: float | None, least: float | None, value: float, step: int) -> tuple[float, float | None]:
    mean = value if mean is None else SMOOTHING * mean + (1 - SMOOTHING) * value
    if step < SETTLING:
        return mean, None
    return mean, mean if least is None else min(least, mean)
