"""Optimizers by name: Keras', the commonest of them in one pass over memory instead of several, LARS and LAMB."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from r2d2 import config

UNDECAYED = ["bias", "gamma", "beta"]
"""Variables that weight decay and LAMB's scaling spare: biases, and normalization's scale and shift."""


def build(training: config.Training) -> keras.optimizers.Optimizer:
    """The optimizer of an experiment; every step sets its rate anew."""
    rate, decay = training.learning_rate, training.weight_decay
    by_name: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
        "sgd": lambda: SGD(rate, momentum=training.momentum, weight_decay=decay or None),
        "adam": lambda: Adam(rate),
        "adamw": lambda: AdamW(rate, weight_decay=decay),
        "lars": lambda: Lars(rate, training.momentum, decay),
        "lamb": lambda: Lamb(rate, decay),
    }
    optimizer = by_name[training.optimizer]()
    if optimizer.weight_decay:
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


class Adam(keras.optimizers.Adam):
    """Keras', by TensorFlow's fused operation, with a count of its own for every variable.

    Moments are corrected for their start (Kingma and Ba 2015, section 3) by the updates that they have seen. Of a
    variable that stood still at first (`model.freeze`) these are fewer than the optimizer's: corrected by all of those
    its first steps would be 3 to 6.5 times the rate.
    """

    def build(self, variables: list[keras.Variable]) -> None:
        """Make moments and a count for each variable."""
        if not self.built:
            super().build(variables)
            self._updates = self.add_variable((len(variables),), name="updates")

    def _backend_update_step(self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any) -> None:
        """The step of those variables that learn."""
        learning = {self._get_variable_index(variable) for variable in trainable_variables}
        self._updates.assign_add([float(number in learning) for number in range(self._updates.shape[0])])
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step."""
        number = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[number]),
            v=_handle(self._velocities[number]),
            beta1_power=self.beta_1 ** self._updates[number],
            beta2_power=self.beta_2 ** self._updates[number],
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class AdamW(Adam, keras.optimizers.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""


def _handle(variable: Any) -> tf.Tensor:
    return variable.handle if isinstance(variable, tf.Variable) else variable.value.handle


def _norm(tensors: Iterable[Any]) -> tf.Tensor:
    return tf.linalg.global_norm([tf.convert_to_tensor(tensor) for tensor in tensors])


def _spared(variable: Any) -> bool:
    return any(name in variable.name for name in UNDECAYED)


class Lars(keras.optimizers.Optimizer):
    """Layer-wise adaptive rates: momentum SGD whose step of each layer is a share of its weights' norm.

    You, Gitman and Ginsburg 2017, equation 6 and algorithm 1: the rate of a layer is multiplied by
    `trust * |w| / (|g| + decay * |w|)`, norms over all that learns in the layer (kernel and bias; scale and shift), and
    the gradient is `g + decay * w`, of biases and normalization `g`. While the whole layer is zero it is `trust`.

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

    def _backend_update_step(self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any) -> None:
        """Every layer's step; the layer is what stands in a variable's path before its own name."""
        layers: dict[str, list[tuple[Any, Any]]] = {}
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            layers.setdefault(variable.path.rpartition("/")[0], []).append((gradient, variable))
        for layer in layers.values():
            slope, weights = map(_norm, zip(*layer, strict=True))
            decay = 0.0 if all(_spared(variable) for _, variable in layer) else self.decay
            share = self.trust * weights / (slope + decay * weights + 1e-30)
            rate = learning_rate * ops.where(ops.minimum(weights, slope) > 0, share, self.trust)
            for gradient, variable in layer:
                self.update_step(gradient, variable, rate)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step, at its layer's rate."""
        velocity = self._velocities[self._get_variable_index(variable)]
        gradient = gradient if _spared(variable) else gradient + self.decay * variable
        self.assign(velocity, self.momentum * velocity + learning_rate * gradient)
        self.assign_sub(variable, velocity)

    def get_config(self) -> dict[str, Any]:
        """What it takes to build it again."""
        return super().get_config() | {"momentum": self.momentum, "decay": self.decay, "trust": self.trust}


class Lamb(Adam):
    """Adam whose step of each kernel is a share of its norm.

    You et al. 2020, algorithm 2, phi being the identity: the step is `rate * |w| / |r| * r`, where `r` is Adam's step
    and the decay together, `m / (sqrt(v) + epsilon) + decay * w` with m and v corrected for their start. As in the
    authors' own code biases and normalization have neither decay nor share, and what is zero goes `rate * r`.

    Args:
        learning_rate: The global rate.
        decay: The weight decay, part of `r`.
        epsilon: The authors' own.
    """

    def __init__(self, learning_rate: float, decay: float = 0.0, epsilon: float = 1e-6, **keywords: Any) -> None:
        super().__init__(learning_rate, epsilon=epsilon, name=keywords.pop("name", "lamb"), **keywords)
        self.decay = decay

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step."""
        number = self._get_variable_index(variable)
        m, v, step = self._momentums[number], self._velocities[number], self._updates[number]
        self.assign(m, self.beta_1 * m + (1 - self.beta_1) * gradient)
        self.assign(v, self.beta_2 * v + (1 - self.beta_2) * ops.square(gradient))
        change = m / (1 - self.beta_1**step) / (ops.sqrt(v / (1 - self.beta_2**step)) + self.epsilon)
        if not _spared(variable):
            change += self.decay * variable
            weights, length = _norm([variable]), _norm([change])
            learning_rate *= ops.where(ops.minimum(weights, length) > 0, weights / (length + 1e-30), 1.0)
        self.assign_sub(variable, learning_rate * change)

    def get_config(self) -> dict[str, Any]:
        """What it takes to build it again."""
        return super().get_config() | {"decay": self.decay}
