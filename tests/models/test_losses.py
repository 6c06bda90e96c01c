import keras
import numpy as np
import pytest
from keras import ops

from r2d2.models.losses import LOSSES, cross_entropy, dice, dice_cross_entropy

RNG = np.random.default_rng(0)
BOTH = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


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
    assert (values(loss(labels, sure((labels + 1) % 4, 4))) > 1).all()


@BOTH
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


@BOTH
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
