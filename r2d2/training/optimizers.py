"""Optimizers by name: Keras', the commonest of them in one pass over memory instead of several, and LARS."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from r2d2 import config

UNDECAYED = ["bias", "gamma", "beta"]
"""Variables that weight decay and LARS's scaling spare: biases, and normalization's scale and shift."""


def build(training: config.Training) -> keras.optimizers.Optimizer:
    """The optimizer of an experiment; every step sets its rate anew."""
    rate, decay = training.learning_rate, training.weight_decay or None
    if training.optimizer == "adam":
        return Adam(rate)
    if training.optimizer == "lars":
        return Lars(rate, training.momentum, training.weight_decay)
    optimizer = {
        "sgd": lambda: SGD(rate, momentum=training.momentum, weight_decay=decay),
        "adamw": lambda: AdamW(rate, weight_decay=training.weight_decay),
        "lamb": lambda: keras.optimizers.Lamb(rate, weight_decay=decay),
    }[training.optimizer]()
    if training.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=UNDECAYED)
    return optimizer


class SGD(keras.optimizers.SGD):
    """Keras' with momentum, by TensorFlow's fused operation."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step."""
        if not self.momentum or self.nesterov:
            super().update_step(gradient, variable, learning_rate)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=_handle(variable),
            accum=_handle(self.momentums[self._get_variable_index(variable)]),
            lr=learning_rate,
            grad=gradient,
            momentum=self.momentum,
        )


class _FusedAdam:
    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step."""
        number, step = self._get_variable_index(variable), ops.cast(self.iterations + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[number]),
            v=_handle(self._velocities[number]),
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class Adam(_FusedAdam, keras.optimizers.Adam):
    """Keras', by TensorFlow's fused operation."""


class AdamW(_FusedAdam, keras.optimizers.AdamW):
    """Keras', by TensorFlow's fused operation."""


def _handle(variable: Any) -> tf.Tensor:
    return variable.handle if isinstance(variable, tf.Variable) else variable.value.handle


class Lars(keras.optimizers.Optimizer):
    """Layer-wise adaptive rates: momentum SGD whose step of each layer is a fixed share of its weights' norm.

    You, Gitman and Ginsburg 2017, equations 5 and 6 and algorithm 1: the rate of a layer is multiplied by
    `trust * |w| / (|g| + decay * |w|)`, the gradient is `g + decay * w`. Biases and normalization go without both.

    Args:
        learning_rate: The global rate.
        momentum: Of the velocity, which holds the rate.
        decay: The weight decay, part of the gradient.
        trust: The share, the paper's eta.
    """

    def __init__(
        self, learning_rate: float, momentum: float = 0.9, decay: float = 0.0, trust: float = 1e-3, **keywords: Any
    ) -> None:
        super().__init__(learning_rate, name=keywords.pop("name", "lars"), **keywords)
        self.momentum, self.decay, self.trust = momentum, decay, trust

    def build(self, variables: list[keras.Variable]) -> None:
        """Make a velocity for each variable."""
        if not self.built:
            super().build(variables)
            self._velocities = [self.add_variable_from_reference(v, name="velocity") for v in variables]

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """One variable's step."""
        velocity = self._velocities[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if not any(name in variable.name for name in UNDECAYED):
            weights, slope = ops.norm(ops.reshape(variable, -1)), ops.norm(ops.reshape(gradient, -1))
            moved = ops.logical_and(weights > 0, slope > 0)
            rate = rate * ops.where(moved, self.trust * weights / (slope + self.decay * weights + 1e-30), 1.0)
            gradient = gradient + self.decay * variable
        self.assign(velocity, self.momentum * velocity + rate * gradient)
        self.assign_sub(variable, velocity)

    def get_config(self) -> dict[str, Any]:
        """What it takes to build it again."""
        return super().get_config() | {"momentum": self.momentum, "decay": self.decay, "trust": self.trust}
