import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d2 import segeval
from r2d2.errors import InputError

RNG = np.random.default_rng(0)


def test_rows_are_the_reference():
    reference = np.array([0, 0, 0, 1, 1, 2], np.uint8)
    prediction = np.array([0, 1, 1, 1, 0, 2], np.uint8)
    matrix = segeval.confusion_matrix(reference, prediction, 4)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(1, 500), st.sampled_from([np.uint8, np.int16, np.int64]))
def test_counts_are_those_of_scikit_learn(num_classes, size, dtype):
    reference, prediction = RNG.integers(0, num_classes, (2, size)).astype(dtype)
    matrix = segeval.confusion_matrix(reference, prediction, num_classes)
    labels = np.arange(num_classes)
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(reference, prediction, labels=labels))


@pytest.mark.parametrize("orders", ["CC", "CF", "FC", "FF"])
def test_the_order_in_memory_plays_no_part(orders):
    reference, prediction = RNG.integers(0, 3, (2, 5, 6, 7)).astype(np.uint8)
    expected = segeval.confusion_matrix(reference, prediction, 3)
    left, right = np.asarray(reference, order=orders[0]), np.asarray(prediction, order=orders[1])
    np.testing.assert_array_equal(segeval.confusion_matrix(left, right, 3), expected)
    np.testing.assert_array_equal(segeval.confusion_matrix(left[::-1, ::2], right[::-1, ::2], 3).sum(), 5 * 3 * 7)


def test_counts_beyond_float32_are_exact():
    size = (1 << 24) + 3
    reference, prediction = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    prediction[-1] = 1
    assert segeval.confusion_matrix(reference, prediction, 2).tolist() == [[size - 1, 1], [0, 0]]


def test_bool_masks_count():
    matrix = segeval.confusion_matrix(np.array([True, False]), np.array([True, True]), 2)
    assert matrix.tolist() == [[0, 1], [0, 1]]


def test_255_classes_count():
    labels = np.arange(255, dtype=np.uint8)
    np.testing.assert_array_equal(segeval.confusion_matrix(labels, labels, 255), np.eye(255))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.sampled_from("CF"))
def test_slices_add_up_to_the_volume(seed, axis, order):
    left, right = np.random.default_rng(seed).integers(0, 4, (2, 4, 5, 6)).astype(np.uint8)
    left, right = np.array(left, order=order), np.array(right, order=order)
    slices = segeval.confusion_matrices(left, right, 4, axis)
    np.testing.assert_array_equal(slices.sum(0), segeval.confusion_matrix(left, right, 4))
    for number in range(left.shape[axis]):
        one = segeval.confusion_matrix(left.take(number, axis), right.take(number, axis), 4)
        np.testing.assert_array_equal(slices[number], one)


def test_whole_numbers_of_any_type_are_labels():
    labels = [0, 1, 2, 3]
    for dtype in (np.uint8, np.int64, np.float32, np.float64):
        np.testing.assert_array_equal(segeval.confusion_matrix(*np.array([labels] * 2, dtype), 4), np.eye(4))


def test_more_classes_than_a_byte_holds_are_refused():
    for num_classes in (0, 256, 300):
        with pytest.raises(ValueError, match="must be 1 to 255"):
            segeval.confusion_matrix(np.zeros(3), np.zeros(3), num_classes)
    for value in (np.inf, np.nan):
        with pytest.raises(InputError, match="whole numbers"):
            segeval.confusion_matrix(np.array([0.0, value]), np.zeros(2), 2)


def test_no_voxels_are_refused():
    with pytest.raises(InputError, match="0x3: there are no voxels to compare"):
        segeval.confusion_matrix(np.zeros((0, 3)), np.zeros((0, 3)), 2)


def test_differing_shapes_are_refused_with_both():
    with pytest.raises(InputError, match="reference 240x240x155, prediction 240x240x154"):
        segeval.confusion_matrix(np.zeros((240, 240, 155), np.uint8), np.zeros((240, 240, 154), np.uint8), 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
@pytest.mark.parametrize(("reference", "prediction"), [([0, 1], [4, 1]), ([4, 1], [0, 1])])
def test_labels_outside_the_classes_are_refused(dtype, reference, prediction):
    with pytest.raises(InputError, match=r"4.*with 4 classes they must be 0 to 3"):
        segeval.confusion_matrix(np.array(reference, dtype), np.array(prediction, dtype), 4)


def test_negative_and_broken_labels_are_refused():
    with pytest.raises(InputError, match="prediction: labels -1 to 0"):
        segeval.confusion_matrix(np.array([0, 0]), np.array([-1, 0]), 2)
    with pytest.raises(InputError, match="whole numbers"):
        segeval.confusion_matrix(np.array([0.5]), np.array([0.5]), 2)
