"""Layers with cheaper gradients: in the place of Keras' own, with the same results within rounding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from r2d2 import config, kernels, models
from r2d2.models import fused
from r2d2.models.losses import dice_cross_entropy
from r2d2.models.precision import with_precision

NETWORKS = [
    (config.DistUNet(network="dist-unet", filters=8, depth=2), (22, 28)),
    (config.DistUNet(network="dist-unet", filters=8, depth=2, normalization="group", residual=True), (20, 16)),
    (config.DistFCN(network="dist-fcn", encoder="vgg16", head_width=16, dropout=0.0), (40, 34)),
]
IDS = ["u-net", "residual u-net", "fcn"]


def learned(model, size, images=3):
    """The logits and the gradients of all that learns, by name."""
    rng = np.random.default_rng(0)
    scans = tf.constant(rng.normal(size=(images, *size, 2)), tf.float32)
    labels = tf.constant(rng.integers(0, 3, (images, *size)), tf.int32)
    network = models.logits(model)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            logits = network(scans, training=True)
            value = tf.reduce_mean(dice_cross_entropy(labels, logits))
        return logits, tape.gradient(value, [variable.value for variable in model.trainable_variables])

    logits, gradients = step()
    names = [variable.path for variable in model.trainable_variables]
    return logits.numpy(), dict(zip(names, (gradient.numpy() for gradient in gradients), strict=True))


def built(settings, size):
    keras.utils.set_random_seed(1)
    model = models.build(settings, 2, 3, size)
    rng = np.random.default_rng(1)  # scores start at zero, which would leave the rest without a gradient
    for layer in model.layers:
        if layer.name.startswith(("score", "logits")) and len(layer.get_weights()) == 2:
            layer.set_weights([rng.normal(0, 0.3, weight.shape) for weight in layer.get_weights()])
    return model


def errors(found, expected):
    return [np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name]) for name in expected]


@pytest.mark.parametrize("settings, size", NETWORKS, ids=IDS)
def test_in_float32_they_give_what_keras_own_give(settings, size):
    model = built(settings, size)
    copy = with_precision(model, "float32")
    logits, gradients = learned(model, size)
    same, equal = learned(copy, size)
    np.testing.assert_allclose(same, logits, rtol=0, atol=1e-4 * np.abs(logits).max())
    assert max(errors(equal, gradients)) < 1e-3


@pytest.mark.parametrize("settings, size", NETWORKS, ids=IDS)
def test_in_bfloat16_their_gradients_lie_no_farther_from_float32_than_keras_own(settings, size):
    model = built(settings, size)
    _, exact = learned(model, size)
    _, keras_own = learned(with_precision(model, "bfloat16", fuse=False), size)
    ours = with_precision(model, "bfloat16")
    assert {"Convolution", "Dropout", "Enlargement", "Scores"} & {type(layer).__name__ for layer in ours.layers}
    _, found = learned(ours, size)
    assert all(gradient.dtype == np.float32 for gradient in found.values())
    assert np.mean(errors(found, exact)) < 1.1 * np.mean(errors(keras_own, exact)) < 0.5


@pytest.mark.skipif(kernels.load() is None, reason="R2D2's kernels are not built, or this processor has no AMX")
def test_convolutions_of_many_channels_take_the_parts_of_a_skip_and_learn_in_float32():
    size = (12, 14)
    model = built(config.DistUNet(network="dist-unet", filters=32, depth=1), size)
    _, exact = learned(model, size)
    copy = with_precision(model, "bfloat16")
    _, found = learned(copy, size)
    _, keras_own = learned(with_precision(model, "bfloat16", fuse=False), size)
    assert np.mean(errors(found, exact)) < 1.1 * np.mean(errors(keras_own, exact)) < 0.5
    scans = tf.zeros((1, *size, 2))
    operations = tf.function(lambda: models.logits(copy)(scans, training=True)).get_concrete_function().graph
    taken = [len(o.inputs) for o in operations.get_operations() if o.type == "R2d2Convolution"]
    assert sorted(taken) == [3, 3, 3, 3, 4]  # all but the first, whose images have 2 channels
    kernel = found["decoder_1_conv_1/kernel"]
    assert np.any(kernel != tf.cast(tf.cast(kernel, tf.bfloat16), tf.float32))


@pytest.mark.parametrize("settings, size", NETWORKS, ids=IDS)
def test_they_are_wherever_they_can_be(settings, size):
    model = built(settings, size)
    copy = with_precision(model, "bfloat16")
    kinds = {layer.name: type(layer).__name__ for layer in copy.layers}
    convolutions = [name for name in kinds if "_conv_" in name or "_shortcut" in name]
    assert {kinds[name] for name in convolutions} == {"Convolution"}
    ups = {kinds[name] for name in kinds if name.startswith("decoder") and name.endswith("_up")}
    assert ups == ({"Enlargement"} if settings.network == "dist-unet" else set())
    assert kinds["logits"] == ("Scores" if settings.network == "dist-unet" else "Cropping2D")
    for plain in (model, with_precision(model, "bfloat16", fuse=False)):
        assert not [layer for layer in plain.layers if type(layer).__module__.startswith("r2d2")]


def test_without_the_kernels_the_gradients_are_the_same_within_bfloat16s_rounding(monkeypatch):
    model = built(*NETWORKS[0])
    _, found = learned(with_precision(model, "bfloat16"), NETWORKS[0][1])
    monkeypatch.setattr(kernels, "load", lambda: None)
    _, without = learned(with_precision(model, "bfloat16"), NETWORKS[0][1])
    kernels_of = [name for name in found if name.endswith("kernel")]
    assert max(errors({n: found[n] for n in kernels_of}, {n: without[n] for n in kernels_of})) < 0.05


@pytest.mark.parametrize("kernel_size, padding, strides", [(2, "same", 1), (3, "valid", 1), (3, "same", 2)])
def test_a_convolution_of_another_kind_stays_keras_own(kernel_size, padding, strides):
    layer = keras.layers.Conv2D(4, kernel_size, padding=padding, strides=strides)
    described = {"class_name": "Conv2D", "name": "any", "config": layer.get_config()}
    assert fused.replacement(described, "bfloat16", single=False) is None


def test_what_stands_still_has_no_gradient_and_lets_those_before_it_learn():
    model = with_precision(built(*NETWORKS[0]), "bfloat16")
    _, all_of_it = learned(model, NETWORKS[0][1])
    model.get_layer("bottom_conv_1").trainable = False
    _, rest = learned(model, NETWORKS[0][1])
    assert set(all_of_it) - set(rest) == {"bottom_conv_1/kernel", "bottom_conv_1/bias"}
    assert max(errors(rest, {name: all_of_it[name] for name in rest})) < 0.1


def test_dropout_draws_what_keras_draws_from_the_same_seed():
    images = tf.random.stateless_normal((4, 3, 5, 2), (1, 2))
    plain, ours = keras.layers.Dropout(0.4, seed=7), fused.Dropout(0.4, seed=7)
    np.testing.assert_array_equal(ours(images, training=True), plain(images, training=True))
    np.testing.assert_array_equal(ours(images, training=False), images)
    np.testing.assert_array_equal(ours(images, training=True), ours(images, training=True))
