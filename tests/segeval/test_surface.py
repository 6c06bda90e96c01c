import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from helpers.blobs import blobs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from r2d2 import segeval
from r2d2.errors import InputError
from r2d2.segeval import surface as surfaces

SPACING = (3.0, 2.0, 1.0)


def by_hand(left, right, spacing):
    """All distances between two surfaces, each voxel with each."""

    def shell(mask):
        found = []
        for voxel in np.argwhere(mask):
            beside = [voxel + step * np.eye(3, dtype=int)[axis] for axis in range(3) for step in (-1, 1)]
            if any((b < 0).any() or (b >= mask.shape).any() or not mask[tuple(b)] for b in beside):
                found.append(voxel * spacing)
        return np.array(found)

    between = cdist(shell(left), shell(right))
    return between.min(axis=1), between.min(axis=0)


def test_distances_by_hand():
    found = segeval.surface_distances(np.array([1, 0, 0, 1], bool), np.array([0, 1, 0, 0], bool), [2.0])
    assert found.reference_mm.tolist() == [2, 4] and found.prediction_mm.tolist() == [2]
    assert found.hausdorff() == 4
    assert found.hausdorff(95) == pytest.approx(2 + 0.95 * 2)
    assert found.average() == pytest.approx((2 + 4 + 2) / 3)
    assert found.dice(2.0) == pytest.approx(2 / 3) and found.dice(1.9) == 0 and found.dice(4) == 1


def test_a_shift_is_as_far_as_it_is_in_mm():
    mask = np.zeros((9, 9, 9), bool)
    mask[2:5, 2:5, 2:5] = True
    for axis, mm in enumerate(SPACING):
        found = segeval.surface_distances(mask, np.roll(mask, 2, axis), SPACING)
        assert found.hausdorff() == pytest.approx(2 * mm)


def test_a_hole_has_a_surface_and_the_edge_of_the_grid_is_one():
    mask = np.ones((5, 5, 5), bool)
    mask[2, 2, 2] = False
    shell = surfaces.surface(mask)
    assert shell.sum() == 5**3 - 3**3 + 6  # what touches the edge, and the six neighbours of the hole
    assert not shell[1, 1, 1] and shell[2, 2, 1] and not shell[2, 2, 2]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([SPACING, (1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.0, 0.3, 0.3), (1.1, 4.0, 1.1)]),
)
def test_distances_are_those_of_each_voxel_to_each(seed, spacing):
    left, right = blobs(seed)
    found = segeval.surface_distances(left, right, spacing)
    expected = by_hand(left, right, np.array(spacing))
    np.testing.assert_allclose(np.sort(found.reference_mm), np.sort(expected[0]), rtol=1e-12)
    np.testing.assert_allclose(np.sort(found.prediction_mm), np.sort(expected[1]), rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_hausdorff_is_simpleitks_on_its_own_contours(seed):
    left, right = blobs(seed)
    images = []
    for mask in (left, right):
        image = sitk.GetImageFromArray(mask.transpose(2, 1, 0).astype(np.uint8))
        image.SetSpacing(SPACING)
        images.append(sitk.BinaryContour(image, fullyConnected=False))
    theirs = sitk.HausdorffDistanceImageFilter()
    theirs.Execute(*images)
    ours = segeval.surface_distances(left, right, SPACING).hausdorff()
    assert ours == pytest.approx(theirs.GetHausdorffDistance(), rel=1e-6)


RECORDED = json.loads((Path(__file__).parent / "monai.json").read_text())


@pytest.mark.parametrize("one", RECORDED["masks"], ids=lambda one: f"{one['seed']}")
def test_distances_are_those_of_monai(one):
    """As MONAI 1.6.1 gave them; experiments/benchmarks/segeval.py compares with MONAI itself."""
    left, right = blobs(one["seed"], tuple(one["shape"]), one["part"])
    found = segeval.surface_distances(left, right, one["spacing"])
    assert found.hausdorff() == pytest.approx(one["hausdorff"], rel=1e-6)
    assert found.hausdorff(95) == pytest.approx(one["hd95"], rel=1e-6)
    assert found.average() == pytest.approx(one["assd"], rel=1e-6)
    assert found.dice(2.0) == pytest.approx(one["surface_dice_2mm"], rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_swapping_the_masks_changes_nothing(seed):
    left, right = blobs(seed)
    one, other = (segeval.surface_distances(*pair, SPACING) for pair in ((left, right), (right, left)))
    assert one.hausdorff() == other.hausdorff() and one.hausdorff(95) == other.hausdorff(95)
    assert one.average() == pytest.approx(other.average(), rel=1e-12)
    assert one.dice(2) == pytest.approx(other.dice(2), rel=1e-12)
    assert one.hausdorff(95) <= one.hausdorff()


def test_a_mask_and_itself_are_nowhere_apart():
    left, _ = blobs(1)
    found = segeval.surface_distances(left, left, SPACING)
    assert (found.hausdorff(), found.average(), found.dice(0)) == (0, 0, 1)


def test_whatever_is_not_0_is_of_the_mask():
    left, right = blobs(2)
    expected = segeval.surface_distances(left, right, SPACING).hausdorff()
    assert segeval.surface_distances(left.astype(np.uint8), 3 * right.astype(np.int16), SPACING).hausdorff() == expected


def test_a_spacing_rounded_in_a_file_does_not_move_a_surface_out_of_tolerance():
    mask = np.zeros((20, 9, 9), bool)
    mask[2:9, 2:7, 2:7] = True
    spacing = [float(np.float32(0.4))] * 3
    assert segeval.surface_distances(mask, np.roll(mask, 5, 0), spacing).dice(2.0) == 1
    assert segeval.surface_distances(mask, np.roll(mask, 6, 0), spacing).dice(2.0) < 1


def test_planes_larger_than_float32_counts_are_exact():
    left, right = np.zeros((2, 3000, 3000, 1), bool)
    left[0, 0], right[2999, 2998] = True, True
    found = segeval.surface_distances(left, right, (1, 1, 1)).hausdorff()
    assert found == pytest.approx(math.hypot(2999, 2998), rel=1e-12)


def test_the_empty_mask():
    full, empty = np.ones((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    none = segeval.surface_distances(empty, empty, SPACING)
    assert all(math.isnan(value) for value in (none.hausdorff(), none.hausdorff(95), none.average(), none.dice(2)))
    for pair in ((full, empty), (empty, full)):
        missed = segeval.surface_distances(*pair, SPACING)
        assert (missed.hausdorff(), missed.hausdorff(95), missed.average()) == (math.inf,) * 3
        assert missed.dice(1e9) == 0


def test_memory_order_and_surroundings_change_nothing():
    left, right = blobs(3)
    expected = segeval.surface_distances(left, right, SPACING)
    turned = segeval.surface_distances(np.asfortranarray(left), np.asfortranarray(right), SPACING)
    wide = segeval.surface_distances(np.pad(left, 9), np.pad(right, 9), SPACING)
    for found in (turned, wide):
        np.testing.assert_allclose(np.sort(found.reference_mm), np.sort(expected.reference_mm), rtol=1e-12)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, -2), (1, 1, math.nan), (1, 1, math.inf), (1, 1, 1, 1)])
def test_a_wrong_spacing_is_refused(spacing):
    with pytest.raises(InputError, match="one positive number of mm for each of 3 axes"):
        segeval.surface_distances(np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool), spacing)


def test_differing_shapes_are_refused():
    with pytest.raises(InputError, match=r"reference \(2, 2\), prediction \(2, 3\): the shapes must be the same"):
        segeval.surface_distances(np.ones((2, 2), bool), np.ones((2, 3), bool), (1, 1))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_the_bounding_box_holds_all_and_no_more(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros(rng.integers(1, 9, 3), bool)
    mask.flat[rng.integers(0, mask.size, 2)] = True
    box = surfaces.bounding_box(mask)
    assert mask[box].sum() == mask.sum()
    for axis in range(3):
        ends = np.moveaxis(mask[box], axis, 0)[[0, -1]]
        assert ends[0].any() and ends[1].any()
    assert surfaces.bounding_box(np.zeros((2, 3), bool)) is None
