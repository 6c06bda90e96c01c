import math
from dataclasses import fields

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d2 import segeval

NAN = math.nan


def test_scores_by_hand():
    # Reference: 10, 4, 6 voxels of the classes; prediction: 10, 6, 4.
    scores = segeval.scores(np.array([[8, 2, 0], [1, 3, 0], [1, 1, 4]]))
    np.testing.assert_allclose(scores.dice, [16 / 20, 6 / 10, 8 / 10])
    np.testing.assert_allclose(scores.iou, [8 / 12, 3 / 7, 4 / 6])
    np.testing.assert_allclose(scores.accuracy, [8 / 10, 3 / 4, 4 / 6])
    assert scores.pixel_accuracy == pytest.approx(15 / 20)
    assert scores.mean_accuracy == pytest.approx((8 / 10 + 3 / 4 + 4 / 6) / 3)
    assert scores.mean_iou == pytest.approx((8 / 12 + 3 / 7 + 4 / 6) / 3)
    assert scores.frequency_weighted_iou == pytest.approx((10 * 8 / 12 + 4 * 3 / 7 + 6 * 4 / 6) / 20)
    assert scores.mean_dice == pytest.approx((0.8 + 0.6 + 0.8) / 3)
    assert scores.foreground_dice == pytest.approx((0.6 + 0.8) / 2)
    assert scores.present == 3


def test_a_class_in_neither_mask_is_nan_and_left_out_of_means():
    scores = segeval.scores(np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]]))
    np.testing.assert_allclose(scores.dice, [12 / 14, 8 / 10, NAN])
    np.testing.assert_allclose(scores.iou, [6 / 8, 4 / 6, NAN])
    np.testing.assert_allclose(scores.accuracy, [6 / 8, 1, NAN])
    assert scores.mean_dice == pytest.approx((12 / 14 + 8 / 10) / 2)
    assert scores.mean_iou == pytest.approx((6 / 8 + 4 / 6) / 2)
    assert scores.mean_accuracy == pytest.approx((6 / 8 + 1) / 2)
    assert scores.foreground_dice == pytest.approx(8 / 10)
    assert scores.present == 2


def test_a_class_predicted_where_the_reference_has_none_scores_0_with_weight_0():
    scores = segeval.scores(np.array([[6, 2], [0, 0]]))
    np.testing.assert_allclose(scores.dice, [12 / 14, 0])
    np.testing.assert_allclose(scores.iou, [6 / 8, 0])
    np.testing.assert_allclose(scores.accuracy, [6 / 8, NAN])
    assert scores.frequency_weighted_iou == pytest.approx(6 / 8)
    assert scores.mean_accuracy == pytest.approx(6 / 8)
    assert scores.foreground_dice == 0
    assert scores.present == 2


def test_a_class_that_is_missed_scores_0():
    scores = segeval.scores(np.array([[6, 0], [2, 0]]))
    assert scores.dice[1] == scores.iou[1] == scores.accuracy[1] == 0


def test_background_alone_has_no_foreground_dice():
    scores = segeval.scores(np.array([[9, 0], [0, 0]]))
    assert math.isnan(scores.foreground_dice) and scores.mean_dice == 1


def test_an_empty_matrix_is_nan_throughout():
    scores = segeval.scores(np.zeros((3, 3), np.int64))
    for field in fields(scores):
        if field.name != "present":
            assert np.isnan(getattr(scores, field.name)).all()
    assert scores.present == 0


def test_swapping_the_masks_keeps_dice_and_changes_accuracy():
    matrix = np.array([[5, 3], [1, 4]])
    left, right = segeval.scores(matrix), segeval.scores(matrix.T)
    np.testing.assert_allclose(left.dice, right.dice)
    assert left.accuracy.tolist() == [5 / 8, 4 / 5] and right.accuracy.tolist() == [5 / 6, 4 / 7]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_scores_are_those_of_scikit_learn(seed):
    reference, prediction = np.random.default_rng(seed).integers(0, 4, (2, 200)).astype(np.uint8)
    scores = segeval.scores(segeval.confusion_matrix(reference, prediction, 4))
    np.testing.assert_allclose(scores.dice, sklearn.metrics.f1_score(reference, prediction, average=None))
    np.testing.assert_allclose(scores.iou, sklearn.metrics.jaccard_score(reference, prediction, average=None))
    np.testing.assert_allclose(scores.accuracy, sklearn.metrics.recall_score(reference, prediction, average=None))
    assert scores.pixel_accuracy == pytest.approx(sklearn.metrics.accuracy_score(reference, prediction))
    assert scores.mean_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(reference, prediction))
    weighted = sklearn.metrics.jaccard_score(reference, prediction, average="weighted")
    assert scores.frequency_weighted_iou == pytest.approx(weighted)


def test_a_matrix_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="square"):
        segeval.scores(np.zeros((2, 3)))
