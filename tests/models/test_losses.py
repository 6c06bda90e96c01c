from functools import partial
from typing import get_args

import keras
import numpy as np
import pytest
from keras import ops

from r2d2 import config
from r2d2.models.losses import LOSSES, build, cross_entropy, dice, dice_cross_entropy, focal, tversky

RNG = np.random.default_rng(0)
WEIGHTS = (0.25, 1.0, 3.0, 0.5)
BOTH = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
WEIGHTED = pytest.mark.parametrize(
    "loss",
    [*LOSSES.values(), *(partial(loss, weights=WEIGHTS) for loss in LOSSES.values())],
    ids=[*LOSSES.keys(), *(f"{name}-weighted" for name in LOSSES)],
)


def values(result):
    return ops.convert_to_numpy(result)


def sure(labels, num_classes, by=30.0):
    """Logits that are as good as certain of these labels."""
    return by * np.eye(num_classes, dtype=np.float32)[labels]


def batch(num_images=3, shape=(6, 5), num_classes=4):
    labels = RNG.integers(0, num_classes, (num_images, *shape)).astype(np.uint8)
    return labels, RNG.normal(0, 2, (*labels.shape, num_classes)).astype(np.float32)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_not_knowing_costs_the_logarithm_of_the_number_of_classes(num_classes):
    labels, _ = batch(num_classes=num_classes)
    logits = np.full((*labels.shape, num_classes), 5.0, np.float32)
    np.testing.assert_allclose(values(cross_entropy(labels, logits)), np.log(num_classes), rtol=1e-5)


def test_cross_entropy_is_the_mean_over_the_pixels_in_nats():
    # Odds 3 to 1 for class 0 on two pixels, of which one is class 1: -(ln 3/4 + ln 1/4) / 2.
    logits = np.array([[[[np.log(3), 0], [np.log(3), 0]]]], np.float32)
    found = values(cross_entropy(np.array([[[0, 1]]], np.uint8), logits))
    np.testing.assert_allclose(found, [-(np.log(3 / 4) + np.log(1 / 4)) / 2], rtol=1e-6)


def test_dice_is_worked_out_by_hand():
    # Three classes, four pixels: 1, 1, 0, 2 in the reference; 1, 0, 0, 1 predicted for sure.
    labels = np.array([[[1, 1], [0, 2]]], np.uint8)
    found = values(dice(labels, sure(np.array([[[1, 0], [0, 1]]]), 3)))
    # Class 1: one pixel of 2 + 2 in both; class 2: none of 1 + 0; a pixel added above and below.
    expected = 1 - ((2 * 1 + 1) / (4 + 1) + (0 + 1) / (1 + 1)) / 2
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_dice_of_not_knowing_is_worked_out_by_hand():
    # Two classes, probability 1/2 everywhere; 4 pixels, one of which is foreground: overlap 1/2, sizes 2 + 1.
    labels = np.array([[[0, 1], [0, 0]]], np.uint8)
    found = values(dice(labels, np.zeros((1, 2, 2, 2), np.float32)))
    np.testing.assert_allclose(found, [1 - (2 * 0.5 + 1) / (3 + 1)], rtol=1e-6)


def test_the_background_plays_no_part_in_dice():
    # Twice as much background, all of it right for sure, changes nothing.
    labels = np.array([[[1, 1], [0, 0]]], np.uint8)
    logits = sure(np.array([[[1, 0], [0, 0]]]), 2)
    wide = np.concatenate([labels, np.zeros_like(labels)], axis=2)
    wide_logits = np.concatenate([logits, sure(np.zeros((1, 2, 2), int), 2)], axis=2)
    np.testing.assert_allclose(values(dice(labels, logits)), values(dice(wide, wide_logits)), rtol=1e-5)


@BOTH
def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_much(loss):
    labels, _ = batch()
    np.testing.assert_allclose(values(loss(labels, sure(labels, 4))), 0, atol=1e-5)
    assert (values(loss(labels, sure((labels + 1) % 4, 4))) > 0.8).all()


@WEIGHTED
def test_the_loss_of_a_batch_is_that_of_its_images_one_by_one(loss):
    labels, logits = batch()
    labels[1] = 0  # an image with background alone, which pooling over the batch would hide
    together = values(loss(labels, logits))
    alone = [values(loss(labels[i : i + 1], logits[i : i + 1]))[0] for i in range(3)]
    assert together.shape == (3,) and together.dtype == np.float32
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(set(together.tolist())) == 3


def test_the_sum_is_dice_and_cross_entropy():
    labels, logits = batch()
    both = values(dice(labels, logits)) + values(cross_entropy(labels, logits))
    np.testing.assert_allclose(values(dice_cross_entropy(labels, logits)), both, rtol=1e-6)


def gradient(loss, labels, logits):
    import tensorflow as tf

    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        total = tf.reduce_mean(loss(labels, variable))
    return tape.gradient(total, variable).numpy()


@BOTH
@pytest.mark.parametrize("by", [0.0, 30.0, 1e4])
def test_gradients_are_finite_for_classes_that_are_nowhere(loss, by):
    labels = np.zeros((2, 4, 4), np.uint8)
    for predicted in (labels, labels + 2):
        assert np.isfinite(gradient(loss, labels, sure(predicted, 3, by))).all()


def test_a_class_that_is_nowhere_is_still_pushed_down():
    slope = gradient(dice, np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4, 3), np.float32))
    assert (slope[..., 1:] > 0).all() and (slope[..., 0] < 0).all()


@WEIGHTED
def test_two_halves_of_a_batch_have_the_gradient_of_the_whole(loss):
    labels, logits = batch(4)
    whole = gradient(loss, labels, logits)
    halves = [gradient(loss, labels[part], logits[part]) / 2 for part in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(np.concatenate(halves), whole, rtol=1e-5, atol=1e-8)


@BOTH
def test_labels_of_any_whole_type_cost_the_same(loss):
    labels, logits = batch()
    np.testing.assert_allclose(values(loss(labels.astype(np.int64), logits)), values(loss(labels, logits)), rtol=1e-6)


def test_keras_own_dice_agrees_but_for_the_added_pixel():
    # Keras adds 1e-7 where this one adds a pixel; on 200 x 200 pixels of foreground that is little.
    labels = RNG.integers(0, 2, (1, 200, 200)).astype(np.uint8)
    logits = RNG.normal(0, 1, (1, 200, 200, 2)).astype(np.float32)
    probability = values(ops.softmax(logits))[..., 1:]
    expected = keras.losses.Dice()(labels[..., None].astype(np.float32), probability)
    np.testing.assert_allclose(values(dice(labels, logits)), float(expected), atol=1e-4)


def test_focal_is_worked_out_by_hand():
    # Odds 3 to 1 for class 0 on two pixels, of which one is class 1; gamma 2: (1/4)^2 ln(4/3) and (3/4)^2 ln 4.
    logits = np.array([[[[np.log(3), 0], [np.log(3), 0]]]], np.float32)
    labels = np.array([[[0, 1]]], np.uint8)
    expected = (np.log(4 / 3) / 16 + np.log(4) * 9 / 16) / 2
    np.testing.assert_allclose(values(focal(labels, logits)), [expected], rtol=1e-6)
    weighted = (0.25 * np.log(4 / 3) / 16 + 0.75 * np.log(4) * 9 / 16) / 2
    np.testing.assert_allclose(values(focal(labels, logits, weights=(0.25, 0.75))), [weighted], rtol=1e-6)


def test_focal_with_gamma_0_is_cross_entropy():
    labels, logits = batch()
    found = values(focal(labels, logits, gamma=0.0, weights=WEIGHTS))
    np.testing.assert_allclose(found, values(cross_entropy(labels, logits, WEIGHTS)), rtol=1e-6)


def test_keras_own_focal_agrees():
    labels, logits = batch()
    own = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=1.5, from_logits=True, reduction=None)
    expected = values(own(np.eye(4, dtype=np.float32)[labels], logits)).mean(axis=(1, 2))
    np.testing.assert_allclose(values(focal(labels, logits, gamma=1.5)), expected, rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_slope_of_focal_is_finite_where_the_prediction_is_right_beyond_doubt(gamma):
    labels = np.zeros((1, 2, 2), np.uint8)
    assert np.isfinite(gradient(partial(focal, gamma=gamma), labels, sure(labels, 2, 1e4))).all()


def test_tversky_is_worked_out_by_hand_and_weighs_what_is_too_much_by_alpha():
    # Two classes, six pixels, for sure: one found, two too much, one missed.
    labels = np.array([[[1, 1, 0], [0, 0, 0]]], np.uint8)
    logits = sure(np.array([[[1, 0, 1], [1, 0, 0]]]), 2)
    expected = 1 - (1 + 0.5) / (1 + 0.3 * 2 + 0.7 * 1 + 0.5)
    np.testing.assert_allclose(values(tversky(labels, logits)), [expected], rtol=1e-5)
    expected = 1 - (1 + 0.5) / (1 + 0.9 * 2 + 0.2 * 1 + 0.5)
    np.testing.assert_allclose(values(tversky(labels, logits, 0.9, 0.2)), [expected], rtol=1e-5)


def test_weighted_cross_entropy_is_a_mean_over_pixels_not_over_weights():
    # Nothing known of two classes: ln 2 a pixel; three pixels of class 0, one of class 1.
    labels = np.array([[[0, 0], [0, 1]]], np.uint8)
    found = values(cross_entropy(labels, np.zeros((1, 2, 2, 2), np.float32), weights=(0.5, 2.5)))
    np.testing.assert_allclose(found, [np.log(2) * (3 * 0.5 + 2.5) / 4], rtol=1e-6)


def test_weighted_dice_is_the_weighted_mean_over_the_foreground_classes():
    # As in the test above of dice by hand: class 1 has 3/5, class 2 has 1/2; the background's weight plays no part.
    labels = np.array([[[1, 1], [0, 2]]], np.uint8)
    logits = sure(np.array([[[1, 0], [0, 1]]]), 3)
    for background in (0.0, 9.0):
        found = values(dice(labels, logits, weights=(background, 1.0, 3.0)))
        np.testing.assert_allclose(found, [1 - (1 * 3 / 5 + 3 * 1 / 2) / 4], rtol=1e-5)


@BOTH
def test_equal_weights_of_one_change_nothing(loss):
    labels, logits = batch()
    found = values(loss(labels, logits, weights=(1.0, 1.0, 1.0, 1.0)))
    np.testing.assert_allclose(found, values(loss(labels, logits)), rtol=1e-6)


@WEIGHTED
def test_gradients_are_the_slopes_of_the_loss(loss):
    labels, logits = batch(2, shape=(2, 3))
    slopes = gradient(loss, labels, logits)
    step = 1e-2
    for place in [(0, 0, 0, 0), (0, 1, 2, 1), (1, 0, 1, 2), (1, 1, 0, 3)]:
        moved = np.zeros_like(logits)
        moved[place] = step
        up, down = (values(loss(labels, logits + sign * moved)).astype(np.float64).mean() for sign in (1, -1))
        np.testing.assert_allclose(slopes[place], (up - down) / (2 * step), rtol=0.01, atol=1e-4)


def test_an_experiments_loss_has_its_parameters_and_weights_inside():
    labels, logits = batch()
    settings = {"focal_gamma": 3.0, "tversky_alpha": 0.9, "tversky_beta": 0.2}
    expected = {
        "focal": focal(labels, logits, gamma=3.0, weights=WEIGHTS),
        "tversky": tversky(labels, logits, 0.9, 0.2, WEIGHTS),
        "cross_entropy": cross_entropy(labels, logits, WEIGHTS),
    }
    for name, value in expected.items():
        loss = build(config.Training(loss=name, **settings), WEIGHTS)
        np.testing.assert_allclose(values(loss(labels, logits)), values(value), rtol=1e-6)
    assert set(LOSSES) == set(get_args(config.Training.model_fields["loss"].annotation))
