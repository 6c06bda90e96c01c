import math
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
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
        if field.name not in ("present", "confusion"):
            assert np.isnan(getattr(scores, field.name)).all()
    assert scores.present == 0


def test_swapping_the_masks_keeps_dice_and_changes_accuracy():
    matrix = np.array([[5, 3], [1, 4]])
    left, right = segeval.scores(matrix), segeval.scores(matrix.T)
    np.testing.assert_allclose(left.dice, right.dice)
    assert left.accuracy.tolist() == [5 / 8, 4 / 5] and right.accuracy.tolist() == [5 / 6, 4 / 7]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_scores_are_those_of_scikit_learn(seed, classes):
    """To 1e-12, on masks that lack classes now and then."""
    rng = np.random.default_rng(seed)
    parts = rng.dirichlet(np.full(classes, 0.5), 2)
    reference, prediction = (rng.choice(classes, 200, p=part).astype(np.uint8) for part in parts)
    prediction = np.where(rng.random(200) < 0.5, reference, prediction)
    scores = segeval.scores(segeval.confusion_matrix(reference, prediction, classes))
    there = sorted({*reference, *prediction})

    def same(ours, theirs, **settings):
        expected = theirs(reference, prediction, average=None, labels=there, **settings)
        np.testing.assert_allclose(ours[there], expected, rtol=0, atol=1e-12)

    same(scores.dice, sklearn.metrics.f1_score)
    same(scores.iou, sklearn.metrics.jaccard_score)
    same(np.nan_to_num(scores.sensitivity), sklearn.metrics.recall_score, zero_division=0)
    same(scores.precision, sklearn.metrics.precision_score, zero_division=0)
    same(scores.f_beta(2), sklearn.metrics.fbeta_score, beta=2)
    same(scores.f_beta(0.5), sklearn.metrics.fbeta_score, beta=0.5)
    assert scores.present == len(there)
    assert scores.pixel_accuracy == pytest.approx(sklearn.metrics.accuracy_score(reference, prediction), abs=1e-12)
    had = [value for value in there if value in reference]
    accuracy = sklearn.metrics.recall_score(reference, prediction, average="macro", labels=had)
    assert scores.mean_accuracy == pytest.approx(accuracy, abs=1e-12)
    weighted = sklearn.metrics.jaccard_score(reference, prediction, average="weighted", labels=there)
    assert scores.frequency_weighted_iou == pytest.approx(weighted, abs=1e-12)
    mean = sklearn.metrics.jaccard_score(reference, prediction, average="macro", labels=there)
    assert scores.mean_iou == pytest.approx(mean, abs=1e-12)
    if len(there) > 1:
        kappa = sklearn.metrics.cohen_kappa_score(reference, prediction)
        assert scores.kappa == pytest.approx(kappa, abs=1e-12)
    for value in there:
        of = sklearn.metrics.confusion_matrix(reference == value, prediction == value, labels=[False, True])
        if of[0].sum():
            assert scores.specificity[value] == pytest.approx(of[0, 0] / of[0].sum(), abs=1e-12)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_overlaps_are_those_of_simpleitk(seed):
    left, right = np.random.default_rng(seed).integers(0, 4, (2, 5, 6, 7)).astype(np.uint8)
    left[0, 0, :3] = right[0, 0, :3] = [1, 2, 3]
    theirs = sitk.LabelOverlapMeasuresImageFilter()
    theirs.Execute(sitk.GetImageFromArray(left), sitk.GetImageFromArray(right))
    scores = segeval.scores(segeval.confusion_matrix(left, right, 4))
    for value in (1, 2, 3):
        assert scores.dice[value] == pytest.approx(theirs.GetDiceCoefficient(value), abs=1e-12)
        assert scores.iou[value] == pytest.approx(theirs.GetJaccardCoefficient(value), abs=1e-12)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_always_holds(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 50, (4, 4)) * (rng.random((4, 4)) < 0.7)
    scores, turned = segeval.scores(matrix), segeval.scores(matrix.T)
    known = ~np.isnan(scores.dice)
    assert (scores.iou[known] <= scores.dice[known]).all()
    np.testing.assert_allclose(scores.dice, scores.f_beta(1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.dice[known], (2 * scores.iou / (1 + scores.iou))[known], rtol=0, atol=1e-12)
    for name in ("dice", "iou", "pixel_accuracy", "mean_iou", "mean_dice", "kappa"):
        np.testing.assert_allclose(getattr(scores, name), getattr(turned, name), rtol=0, atol=1e-12)
    order = rng.permutation(4)
    renamed = segeval.scores(matrix[order][:, order])
    np.testing.assert_allclose(renamed.dice, scores.dice[order], rtol=0, atol=1e-12)
    np.testing.assert_allclose(renamed.mean_iou, scores.mean_iou, rtol=0, atol=1e-12)


def test_a_stack_of_matrices_is_scored_one_by_one():
    stack = np.random.default_rng(0).integers(0, 3, (2, 5, 3, 3))
    scores = segeval.scores(stack)
    for at in np.ndindex(2, 5):
        one = segeval.scores(stack[at])
        for field in fields(one):
            np.testing.assert_array_equal(getattr(scores, field.name)[at], getattr(one, field.name))


def test_kappa_of_chance_alone_is_none():
    assert segeval.scores(np.array([[25, 25], [25, 25]])).kappa == 0
    assert math.isnan(segeval.scores(np.array([[9, 0], [0, 0]])).kappa)


def test_kappa_of_a_few_voxels_in_a_volume_keeps_its_digits():
    # By exact fractions: 1 - wrong n / sum of t_i p_j, i != j.
    for matrix in ([[8927990, 3], [4, 3]], [[8927998, 1], [0, 1]], [[4463999997, 1], [1, 1]]):
        (a, b), (c, d) = matrix
        exact = 1 - Fraction((b + c) * (a + b + c + d), (a + b) * (b + d) + (c + d) * (a + c))
        assert segeval.scores(np.array(matrix)).kappa == pytest.approx(float(exact), rel=0, abs=1e-12)


def test_f_beta_needs_a_beta():
    for beta in (0, -1, NAN):
        with pytest.raises(ValueError, match="above 0"):
            segeval.scores(np.eye(2)).f_beta(beta)


def test_a_matrix_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="square"):
        segeval.scores(np.zeros((2, 3)))
