import keras
import numpy as np
import pytest
import tensorflow as tf

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


LAYERS = {
    "first/kernel": [[3.0, 4.0]],
    "first/bias": [0.5],
    "norm/gamma": [1.0, 2.0],
    "norm/beta": [0.0, 1.0],
    "score/kernel": [[0.0, 0.0]],
    "score/bias": [0.0],
}
"""What a network may have: a convolution with its bias, a normalization, a layer that starts at zero."""


def three_steps(**training):
    """Those variables after each of three steps at rate 0.1, and the gradients that they were taken with."""
    variables = []
    for path, value in LAYERS.items():
        layer, name = path.split("/")
        with keras.name_scope(layer):
            variables.append(keras.Variable(np.array(value, np.float32), name=name))
    optimizer = optimizers.build(config.Training(learning_rate=0.1, **training))
    optimizer.build(variables)
    step = tf.function(lambda gradients: optimizer.apply(gradients, variables))
    draw, told = np.random.default_rng(0), []
    for _ in range(3):
        gradients = {v.path: draw.normal(size=v.shape).astype(np.float32) for v in variables}
        step([tf.constant(gradient) for gradient in gradients.values()])
        told.append((gradients, {v.path: v.numpy() for v in variables}))
    return told


def norm(*arrays):
    return np.sqrt(sum(np.square(array).sum() for array in arrays))


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_lars_follows_equation_six_layer_by_layer(decay):
    weights = {path: np.array(value) for path, value in LAYERS.items()}
    velocity = dict.fromkeys(LAYERS, 0.0)
    for gradients, found in three_steps(optimizer="lars", momentum=0.5, weight_decay=decay):
        rates = {}
        for layer in ("first", "norm", "score"):
            some = [path for path in LAYERS if path.startswith(layer)]
            size, slope = norm(*(weights[path] for path in some)), norm(*(gradients[path] for path in some))
            kept = 0.0 if layer == "norm" else decay * size  # nothing of it decays
            rates[layer] = 0.1 * 0.001 * (size / (slope + kept) if size else 1.0)
        for path in LAYERS:
            pull = gradients[path] + (decay * weights[path] if path.endswith("kernel") else 0.0)
            velocity[path] = 0.5 * velocity[path] + rates[path.split("/")[0]] * pull
            weights[path] = weights[path] - velocity[path]
            np.testing.assert_allclose(found[path], weights[path], rtol=1e-5, err_msg=path)


def test_lars_stands_still_without_a_gradient():
    variable = keras.Variable(WEIGHTS, name="kernel")
    optimizer = optimizers.Lars(0.1)
    optimizer.build([variable])
    optimizer.apply([tf.zeros_like(WEIGHTS)], [variable])
    np.testing.assert_array_equal(variable.numpy(), WEIGHTS)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_lamb_follows_algorithm_two(decay):
    weights = {path: np.array(value) for path, value in LAYERS.items()}
    m, v = dict.fromkeys(LAYERS, 0.0), dict.fromkeys(LAYERS, 0.0)
    for step, (gradients, found) in enumerate(three_steps(optimizer="lamb", weight_decay=decay), start=1):
        for path, gradient in gradients.items():
            m[path] = 0.9 * m[path] + 0.1 * gradient
            v[path] = 0.999 * v[path] + 0.001 * gradient**2
            change = m[path] / (1 - 0.9**step) / (np.sqrt(v[path] / (1 - 0.999**step)) + 1e-6)
            ratio = 1.0
            if path.endswith("kernel"):
                change = change + decay * weights[path]
                ratio = norm(weights[path]) / norm(change) if weights[path].any() else 1.0
            weights[path] = weights[path] - 0.1 * ratio * change
            np.testing.assert_allclose(found[path], weights[path], rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_shrinks_weights_by_rate_times_decay_and_spares_biases(name):
    plain, decayed = (after(1, optimizer=name, weight_decay=decay) for decay in (0.0, 0.5))
    np.testing.assert_allclose(plain - decayed, 0.05 * WEIGHTS, rtol=1e-5)
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
    assert not np.allclose(ends[0][0], 1)
    for ours, theirs in zip(ends[0][: len(ends[1])], ends[1], strict=True):  # ours may have a count besides
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb"])
def test_what_begins_to_learn_later_takes_the_steps_of_a_beginning_also_after_a_resume(name):
    gradients = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)

    def begin():
        variables = [keras.Variable(np.ones(3, np.float32), name=name) for name in ("bias", "conv_bias")]
        optimizer = optimizers.build(config.Training(optimizer=name, learning_rate=0.1))
        optimizer.build(variables)
        return optimizer, variables

    (late, (early, variable)), (fresh, (_, expected)) = begin(), begin()
    for _ in range(500):
        late.apply([tf.constant(gradients[0])], [early])
    for number, gradient in enumerate(gradients):
        if number == 2:  # as a checkpoint does it
            values = [one.numpy() for one in (early, variable, *late.variables)]
            late, (early, variable) = begin()
            for one, value in zip((early, variable, *late.variables), values, strict=True):
                one.assign(value)
        before = variable.numpy()
        late.apply([tf.constant(gradient)] * 2, [early, variable])
        fresh.apply([tf.constant(gradient)], [expected])
        np.testing.assert_array_equal(variable.numpy(), expected.numpy())
        assert np.abs(variable.numpy() - before).max() <= 0.1001
