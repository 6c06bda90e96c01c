import keras
import numpy as np
import pytest

from r2d2 import config
from r2d2.training import optimizers

WEIGHTS = np.array([[3.0, 4.0]], np.float32)
GRADIENT = np.array([[0.6, 0.8]], np.float32)


def after(steps, name="kernel", **training):
    """A variable after so many steps with the same gradient, at rate 0.1."""
    variable = keras.Variable(WEIGHTS, name=name)
    optimizer = optimizers.build(config.Training(learning_rate=0.1, **training))
    optimizer.build([variable])
    for _ in range(steps):
        optimizer.apply([keras.ops.convert_to_tensor(GRADIENT)], [variable])
    return variable.numpy()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars", "lamb"])
def test_every_optimizer_goes_down_the_gradient(name):
    assert (after(3, optimizer=name) < WEIGHTS).all()


def test_lars_moves_a_layer_by_a_share_of_its_norm_however_large_the_gradient():
    # |w| = 5, |g| = 1: the rate is 0.1 * 0.001 * 5 / 1; then the velocity of a first step and of a second.
    np.testing.assert_allclose(after(1, optimizer="lars"), WEIGHTS - 0.0005 * GRADIENT, rtol=1e-6)
    second = after(2, optimizer="lars", momentum=0.5)
    rate = 0.0001 * np.linalg.norm(WEIGHTS - 0.0005 * GRADIENT)
    np.testing.assert_allclose(second, WEIGHTS - (0.0005 * 1.5 + rate) * GRADIENT, rtol=1e-6)


def test_lars_with_weight_decay_follows_equation_six():
    # 0.1 * 0.001 * 5 / (1 + 0.2 * 5) times the gradient and the decayed weights.
    expected = WEIGHTS - 0.00025 * (GRADIENT + 0.2 * WEIGHTS)
    np.testing.assert_allclose(after(1, optimizer="lars", weight_decay=0.2), expected, rtol=1e-6)


def test_lars_spares_biases():
    expected = WEIGHTS - 0.1 * GRADIENT
    np.testing.assert_allclose(after(1, "conv_bias", optimizer="lars", weight_decay=0.2), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_weight_decay_shrinks_weights_by_rate_times_decay_and_spares_biases(name):
    plain, decayed = (after(1, optimizer=name, weight_decay=decay) for decay in (0.0, 0.5))
    if name != "lamb":  # whose step grows with the weights' norm
        np.testing.assert_allclose(plain - decayed, 0.05 * WEIGHTS, rtol=1e-5)
    assert (decayed < plain).all()
    biases = [after(1, "conv_bias", optimizer=name, weight_decay=decay) for decay in (0.0, 0.5)]
    np.testing.assert_array_equal(*biases)


@pytest.mark.parametrize(
    "training, keras_own",
    [
        ({"optimizer": "sgd", "momentum": 0.9}, lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
        ({"optimizer": "sgd", "momentum": 0.0}, lambda: keras.optimizers.SGD(0.1)),
        ({"optimizer": "adam"}, lambda: keras.optimizers.Adam(0.1)),
        ({"optimizer": "adamw", "weight_decay": 0.2}, lambda: keras.optimizers.AdamW(0.1, weight_decay=0.2)),
    ],
)
def test_fused_operations_do_what_keras_own_optimizers_do(training, keras_own):
    gradients = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    ends = []
    for optimizer in (optimizers.build(config.Training(learning_rate=0.1, **training)), keras_own()):
        variables = [keras.Variable(np.ones((5, 4), np.float32), name=name) for name in ("first", "second")]
        optimizer.build(variables)
        for number, gradient in enumerate(gradients):
            optimizer.learning_rate.assign(0.1 / (1 + number))
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in (gradient, gradient**2)], variables)
        ends.append([variable.numpy() for variable in [*variables, *optimizer.variables]])
    assert len(ends[0]) == len(ends[1]) and not np.allclose(ends[0][0], 1)
    for ours, theirs in zip(*ends, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
