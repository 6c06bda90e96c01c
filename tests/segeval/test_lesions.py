import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d2 import segeval
from r2d2.errors import InputError


def line(text):
    return np.array([c != "." for c in text])


@pytest.mark.parametrize(
    ("reference", "prediction", "detected", "false"),
    [
        ("..xx..xx..", "..xx......", [True, False], []),
        ("..xx..xx..", "..x...xxx.", [True, True], []),
        ("..xx......", "..xx..xxx.", [True], [3]),
        ("xxxx......", "x.xx......", [True], [1]),  # in two pieces: the larger one counts, the other is false
        ("xx.xx.....", "xxxxx.....", [True, False], []),  # one that covers two finds one of them
        ("..........", "..x..xx...", [], [1, 2]),
        ("..xx......", "..........", [False], []),
        ("..........", "..........", [], []),
        ("xxxxxxxxxx", "x.........", [True], []),  # just 0.1
        ("xxxxxxxxxxx", "x..........", [False], [1]),  # just less
    ],
)
def test_lesions_by_hand(reference, prediction, detected, false):
    found = segeval.match_lesions(line(reference), line(prediction))
    assert found.detected.tolist() == detected and sorted(found.false_voxels.tolist()) == false
    assert found.reference_voxels.sum() == line(reference).sum()


def test_corners_join_a_lesion():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    found = segeval.match_lesions(mask, mask)
    assert found.reference_voxels.tolist() == [2, 1] and found.detected.all() and not found.false_voxels.size


def test_the_better_pair_is_matched_first():
    #            a reference of six; a prediction that covers two of it, and a better one that covers three
    found = segeval.match_lesions(line("xxxxxx"), line("xx.xxx"))
    assert found.detected.tolist() == [True] and found.false_voxels.tolist() == [2]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_every_component_is_matched_once_or_not_at_all(seed):
    left, right = np.random.default_rng(seed).random((2, 9, 9, 9)) < 0.08
    found, turned = segeval.match_lesions(left, right), segeval.match_lesions(right, left)
    matched = found.detected.sum()
    assert matched + found.false_voxels.size == turned.reference_voxels.size
    assert matched == turned.detected.sum()
    assert found.reference_voxels.sum() == left.sum()


def test_a_wrong_overlap_and_shapes_are_refused():
    for overlap in (0, -1, 1.1, math.nan):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            segeval.match_lesions(line("x"), line("x"), overlap)
    with pytest.raises(InputError, match="the shapes must be the same"):
        segeval.match_lesions(line("x"), line("x."))


def test_lesions_by_size():
    scans = [
        segeval.Lesions(np.array([1, 2, 3, 4]), np.array([False, False, True, True]), np.array([1, 1, 9])),
        segeval.Lesions(np.array([5, 6, 7, 8]), np.array([True, True, True, False]), np.array([], int)),
    ]
    small, medium, large, huge = segeval.by_size(scans, [1.0, 1.0])
    assert [size.lesions for size in (small, medium, large, huge)] == [2, 2, 2, 2]
    assert [size.detected for size in (small, medium, large, huge)] == [0, 2, 2, 1]
    assert [size.false_per_scan for size in (small, medium, large, huge)] == [1, 0, 0, 0.5]
    assert (small.from_ml, small.to_ml) == (1, 3) and huge.to_ml == math.inf


def test_the_size_is_in_ml_of_each_scan():
    one = segeval.Lesions(np.array([10]), np.array([True]), np.array([], int))
    (only,) = segeval.by_size([one, one], [0.5, 0.5])
    assert (only.from_ml, only.lesions, only.detected) == (5.0, 2, 2)


def test_no_lesions_no_sizes():
    none = segeval.Lesions(np.array([], int), np.array([], bool), np.array([3]))
    assert segeval.by_size([none], [1.0]) == [] and segeval.by_size([], []) == []
