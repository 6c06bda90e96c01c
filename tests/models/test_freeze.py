import keras
import numpy as np
import pytest
import tensorflow as tf

from r2d2 import config, models
from r2d2.models import fcn

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 1, (3, 16, 16, 2)).astype(np.float32)
FROZEN = config.Freeze(layers=("encoder",), until_epoch=2)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """An encoder of few filters; what is said of them holds for any number."""
    monkeypatch.setattr(fcn, "FILTERS", (4, 4, 4, 4, 4))


def dist_unet(**settings):
    return models.build(config.DistUNet(**{"filters": 2, "depth": 2, **settings}), 2, 3, (16, 16))


def learning(model, settings, epoch):
    """The layers whose variables learn in an epoch."""
    variables = {id(variable) for variable in models.freeze(model, settings, epoch)}
    return {layer.name for layer in model.layers if any(id(weight) in variables for weight in layer.weights)}


def test_without_freeze_all_learns():
    model = dist_unet()
    assert learning(model, None, 0) == {layer.name for layer in model.layers if layer.weights}


@pytest.mark.parametrize("epoch", [0, 1, 2, 9])
def test_the_encoder_stands_still_until_the_epoch_and_nothing_else_ever(epoch):
    model = dist_unet()
    everything = {layer.name for layer in model.layers if layer.weights}
    encoder = {f"encoder_{level}_conv_{number}" for level in (1, 2) for number in (1, 2)}
    assert learning(model, FROZEN, epoch) == (everything - encoder if epoch < 2 else everything)


def test_the_result_depends_on_the_epoch_alone():
    model = dist_unet()
    first = learning(model, FROZEN, 0)
    assert learning(model, FROZEN, 5) != first and learning(model, FROZEN, 1) == first


def test_one_level_can_stand_still_alone_and_its_name_is_not_that_of_a_longer_number():
    model = models.build(config.DistUNet(filters=1, depth=4), 1, 2, (16, 16))
    everything = learning(model, None, 0)
    still = everything - learning(model, config.Freeze(layers=("decoder_1", "bottom"), until_epoch=1), 0)
    assert still == {"decoder_1_up", *(f"{block}_conv_{n}" for block in ("decoder_1", "bottom") for n in (1, 2))}


@pytest.mark.parametrize("network", [config.DistUNet(filters=1, depth=3, residual=True), config.DistFCN(head_width=2)])
def test_every_block_that_the_settings_know_is_in_the_network(network):
    model = models.build(network, 2, 3, (32, 32))
    everything = learning(model, None, 0)
    for block in network.blocks:
        freeze = config.Freeze(layers=(block,), until_epoch=1)
        assert learning(model, freeze, 0) < everything
        assert learning(model, freeze, 1) == everything


def test_what_is_fixed_in_a_fcn_does_not_begin_to_learn_with_the_rest():
    model = models.build(config.DistFCN(head_width=2), 1, 2, (32, 32))
    models.freeze(model, config.Freeze(layers=("encoder", "head"), until_epoch=1), 0)
    assert not {"bgr", "score_8_up"} & learning(model, config.Freeze(layers=("encoder", "head"), until_epoch=1), 1)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1),
        lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1),
    ],
    ids=["sgd", "adamw"],
)
def test_what_stands_still_does_not_move_by_a_bit_and_moves_from_the_epoch_on(optimizer):
    model, rule = dist_unet(normalization="batch"), optimizer()
    rule.build(model.trainable_variables)  # once, of all
    kept = {id(variable): index for index, variable in enumerate(model.trainable_variables)}

    def step(epoch):
        variables = models.freeze(model, FROZEN, epoch)

        @tf.function(autograph=False)
        def traced(images):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model(images, training=True)[..., 0])
            rule.apply(tape.gradient(loss, [variable.value for variable in variables]), variables)

        traced(IMAGES)
        traced(IMAGES)
        assert {id(variable) for variable in variables} <= kept.keys()

    def values():
        return {variable.path: variable.numpy() for variable in model.variables}

    fresh = values()
    step(0)
    frozen = values()
    for path, value in frozen.items():  # kernels, scales and moving averages alike
        if path.startswith("encoder"):
            np.testing.assert_array_equal(value, fresh[path])
        elif path.endswith(("kernel", "gamma", "moving_mean")):
            assert (value != fresh[path]).any(), path
    step(2)
    for path, value in values().items():
        if path.startswith("encoder") and path.endswith(("kernel", "gamma", "moving_mean")):
            assert (value != frozen[path]).any(), path
