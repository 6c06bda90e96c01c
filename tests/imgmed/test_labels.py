import numpy as np
import pytest

from r2d2 import imgmed


def test_the_whole_tumour_is_made_of_its_parts():
    labels = np.array([[[0, 1], [2, 3]], [[3, 3], [0, 0]]], np.uint8)
    whole = imgmed.remap_labels(labels, {1: 1, 2: 1, 3: 1})
    np.testing.assert_array_equal(whole, labels > 0)
    assert whole.dtype == np.uint8 and labels.max() == 3


def test_labels_are_exchanged_at_once_and_not_one_after_the_other():
    assert imgmed.remap_labels(np.array([0, 1, 2], np.uint8), {1: 2, 2: 1}).tolist() == [0, 2, 1]


def test_a_label_without_a_new_number_is_refused():
    with pytest.raises(ValueError, match=r"holds \[3\], for which there is no new number"):
        imgmed.remap_labels(np.array([0, 1, 3], np.uint8), {1: 1})


@pytest.mark.parametrize("numbers", [{1: 255}, {-1: 1}, {300: 1}])
def test_numbers_that_no_mask_can_hold_are_refused(numbers):
    with pytest.raises(ValueError, match="0 to 254"):
        imgmed.remap_labels(np.zeros(1, np.uint8), numbers)


def test_of_every_class_the_largest_piece_stays():
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[0, 0, :3] = 1  # three in a row
    labels[3, 3, :2] = 1  # two in a row
    labels[5, :, 3] = 2
    labels[0, 4, 3] = 2
    labels[1, 3, 3] = 2  # touches that one along an edge only
    kept = imgmed.largest_component(labels)
    assert (kept == 1).sum() == 3 and (kept[0, 0, :3] == 1).all()
    assert (kept == 2).sum() == 5 and (kept[5, :, 3] == 2).all()


def test_with_corners_what_touches_along_an_edge_or_at_a_corner_is_one_piece():
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 1] = 1  # by a corner, by an edge
    labels[5, 3:, 3] = 1
    labels[5, 0, 0] = labels[0, 4, 3] = 2
    before = labels.copy()
    kept = imgmed.largest_component(labels, corners=True)
    assert (kept == 1).sum() == 3 and kept[2, 2, 1] == 1
    assert (imgmed.largest_component(labels) == 1).sum() == 2
    one = imgmed.largest_component(labels, [1], corners=True)
    assert (one == 1).sum() == 3 and (one == 2).sum() == 2, "class 2 was not asked for"
    np.testing.assert_array_equal(labels, before)


def test_a_piece_of_another_class_does_not_join_two():
    labels = np.array([1, 1, 2, 1], np.uint8).reshape(4, 1, 1)
    assert imgmed.largest_component(labels).ravel().tolist() == [1, 1, 2, 0]


def test_an_empty_mask_stays_empty():
    assert not imgmed.largest_component(np.zeros((3, 3, 3), np.uint8)).any()
