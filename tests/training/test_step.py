import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from r2d2 import config, models
from r2d2.models.losses import dice_cross_entropy
from r2d2.models.precision import with_precision
from r2d2.training import optimizers
from r2d2.training import step as step_module
from r2d2.training.step import Step

ALONE = SimpleNamespace(size=1, sum_gradients=list, sum_tensor=lambda tensor, name: tensor)
"""A ring of one, without Horovod."""
OF_TWO = SimpleNamespace(**vars(ALONE) | {"size": 2})
"""A ring of two, whose other one hands in nothing."""
HALVES = {"logical": (0, 1), "num_logical": 2, "batch_size": 2}
"""One worker that is two logical ones."""
SIZE = (16, 20)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 16, 20, 1)).astype(np.float32)
LABELS = RNG.integers(0, 2, (4, 16, 20)).astype(np.uint8)


def make(
    logical=(0,),
    num_logical=1,
    batch_size=4,
    dropout=0.0,
    xla=False,
    normalization="none",
    lanes=1,
    loss=dice_cross_entropy,
    ring=ALONE,
):
    keras.utils.set_random_seed(1)
    settings = config.DistUNet(filters=2, depth=1, dropout=dropout, normalization=normalization)
    model = with_precision(models.build(settings, 1, 2, SIZE), "float32", fuse=not xla)
    optimizer = optimizers.build(config.Training())
    optimizer.build(model.trainable_variables)
    seeds = [(v, int(v.numpy()[0])) for v in model.variables if v.name == "seed_generator_state"]
    how = (batch_size, logical, num_logical, ring, xla, lanes)
    return model, Step(model, model.trainable_variables, optimizer, loss, seeds, *how)


def weights(model):
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()])


def test_what_a_step_tells_is_the_loss_and_the_norm_of_its_gradient():
    model, step = make()
    before = weights(model)
    told = step(IMAGES, LABELS, number=0, rate=0.5, code=3)
    # Plain momentum's first step is the rate times the gradient.
    assert np.linalg.norm(weights(model) - before) == pytest.approx(0.5 * told.gradient_norm, rel=1e-4)
    assert told.code == 3 and told.communication_s == 0
    fresh, _ = make()
    losses = dice_cross_entropy(LABELS, models.logits(fresh)(IMAGES))
    assert told.loss == pytest.approx(float(np.mean(losses)), rel=1e-5)


@pytest.mark.parametrize("lanes", [1, 2])
def test_computing_is_not_told_as_waiting_for_the_ring(lanes):
    def slow(labels, logits):
        # Nothing with a side effect: only what is computed may be waited for.
        square = tf.fill((1200, 1200), 1e-6 * tf.reduce_mean(logits))
        for _ in range(12):
            square = tf.matmul(square, square + 1e-3)
        return dice_cross_entropy(labels, logits) * (1.0 + square[0, 0])

    _, step = make(lanes=lanes, loss=slow, ring=OF_TWO)
    step(IMAGES, LABELS, 0, 0.1)  # traces
    began = time.perf_counter()
    told = step(IMAGES, LABELS, 1, 0.1)
    assert told.communication_s < 0.3 * (time.perf_counter() - began)


@pytest.mark.parametrize(("lanes", "averages"), [(1, False), (2, False), (1, True)])
def test_waiting_for_the_ring_is_told(lanes, averages):
    """For the gradients, or for batch normalization's moving averages."""

    def wait(array):
        time.sleep(0.4)
        return array

    def send(gradients):
        waited = tf.numpy_function(wait, [gradients[0]], gradients[0].dtype)
        return [tf.ensure_shape(waited, gradients[0].shape), *gradients[1:]]

    late = {"sum_gradients": send}
    if averages:
        late = {"sum_tensor": lambda tensor, name: send([tensor])[0] if name == "moving_0" else tensor}
    normalization = "batch" if averages else "none"
    _, step = make(lanes=lanes, normalization=normalization, ring=SimpleNamespace(**vars(OF_TWO) | late))
    step(IMAGES, LABELS, 0, 0.1)  # traces
    assert step(IMAGES, LABELS, 1, 0.1).communication_s >= 0.4


@pytest.mark.parametrize(("most", "parts_of"), [(0, 4), (2 * 16 * 20, 2), (2**17, 1)])
def test_minibatches_of_several_logical_workers_add_up_to_one_batch(monkeypatch, most, parts_of):
    """One after another, two together, all together."""
    monkeypatch.setattr(step_module, "TOGETHER", most)
    whole, alone = make()
    parts, several = make(logical=(0, 1, 2, 3), num_logical=4, batch_size=1)
    assert len(several._logical) == parts_of
    for number in range(3):
        one, two = (step(IMAGES, LABELS, number, 0.1) for step in (alone, several))
        assert two.loss == pytest.approx(one.loss, rel=1e-5)
        assert two.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    np.testing.assert_allclose(weights(parts), weights(whole), rtol=0, atol=1e-6)


def test_each_logical_worker_normalizes_its_own_minibatch_and_moving_averages_are_the_mean_of_all():
    """Two workers with half of the images each, one after another on this one, against both by themselves."""
    together, several = make(normalization="batch", **HALVES)
    for number in range(2):
        before = together.get_weights()
        several(IMAGES, LABELS, number, 0.1)
        after = []
        for part in (slice(0, 2), slice(2, 4)):
            model, _ = make(normalization="batch")
            model.set_weights(before)
            model(IMAGES[part], training=True)  # moves its averages
            after.append([v.numpy() for v in models.moving_averages(model)])
        for found, left, right in zip(models.moving_averages(together), *after, strict=True):
            np.testing.assert_allclose(found.numpy(), (left + right) / 2, rtol=1e-5, atol=1e-7)
    losses = [make(normalization="batch", **how)[1](IMAGES, LABELS, 0, 0.1).loss for how in ({}, HALVES)]
    assert abs(losses[0] - losses[1]) > 1e-5  # all four images together are normalized otherwise


def test_which_units_are_dropped_depends_on_logical_worker_and_step_alone():
    def loss(logical, number, earlier=()):
        _, step = make(logical=(logical,), num_logical=2, batch_size=4, dropout=0.5)
        for before in earlier:
            step(IMAGES, LABELS, before, rate=0.0)
        return step(IMAGES, LABELS, number, rate=0.0).loss

    assert loss(0, 7) == loss(0, 7) == loss(0, 7, earlier=(5, 6))
    assert len({loss(0, 7), loss(1, 7), loss(0, 8), loss(1, 8)}) == 4


def test_lanes_share_a_minibatch_and_drop_the_same_units():
    whole, alone = make(dropout=0.5)
    for lanes in (2, 4):
        shared, together = make(dropout=0.5, lanes=lanes)
        shared.set_weights(whole.get_weights())
        one, two = (step(IMAGES, LABELS, 3, 0.0) for step in (alone, together))
        assert two.loss == pytest.approx(one.loss, rel=1e-6)
        assert two.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)
    parts, several = make(dropout=0.5, lanes=2)
    for number in range(3):
        alone(IMAGES, LABELS, number, 0.1), several(IMAGES, LABELS, number, 0.1)
    np.testing.assert_allclose(weights(parts), weights(whole), rtol=0, atol=1e-6)


def test_a_step_compiled_with_xla_is_the_same_within_rounding():
    (model, plain), (other, compiled) = make(), make(xla=True)
    for number in range(2):
        losses = [step(IMAGES, LABELS, number, 0.1).loss for step in (plain, compiled)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    np.testing.assert_allclose(weights(other), weights(model), rtol=0, atol=1e-6)
