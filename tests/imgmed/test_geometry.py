from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from r2d2 import imgmed

DATA = np.arange(2 * 3 * 4 * 2).reshape(2, 3, 4, 2)
ALL_ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def affine_of(axes, signs, spacing=(3.0, 0.5, 2.0)):
    """Voxel axis i runs along world axis axes[i], with signs[i]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i in range(3):
        affine[axes[i], i] = signs[i] * spacing[i]
    affine[:3, 3] = (7, -8, 9)
    return affine


def value_at(volume, world):
    index = np.rint(np.linalg.solve(volume.affine, [*world, 1.0])[:3]).astype(int)
    return volume.data[tuple(index)]


@pytest.mark.parametrize(("axes", "signs"), ALL_ORIENTATIONS)
@pytest.mark.parametrize("data", [DATA[..., 0], DATA], ids=["3d", "4d"])
def test_every_orientation_becomes_ras_and_back_exactly(axes, signs, data):
    scan = imgmed.Volume(data, affine_of(axes, signs))
    canonical = imgmed.to_canonical(scan)
    assert nib.aff2axcodes(canonical.affine) == ("R", "A", "S")
    assert sorted(canonical.spacing_mm) == sorted(scan.spacing_mm)
    for index in ((0, 0, 0), (1, 2, 3), (1, 0, 2)):
        world = (scan.affine @ [*index, 1])[:3]
        np.testing.assert_array_equal(value_at(canonical, world), data[index])
    back = imgmed.from_canonical(canonical.data, scan)
    np.testing.assert_array_equal(back.data, data)
    np.testing.assert_array_equal(back.affine, scan.affine)


def test_an_lps_scan_is_flipped_along_its_first_two_axes():
    canonical = imgmed.to_canonical(imgmed.Volume(DATA[..., 0], np.diag([-1.0, -1, 1, 1])))
    np.testing.assert_array_equal(canonical.data, DATA[::-1, ::-1, :, 0])
    np.testing.assert_array_equal(canonical.affine[:3, 3], [-1, -2, 0])


def test_a_tilted_scan_keeps_its_tilt():
    tilt = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[-np.cos(tilt), np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    scan = imgmed.Volume(DATA[..., 0], affine)
    canonical = imgmed.to_canonical(scan)
    assert value_at(canonical, (affine @ [1, 2, 3, 1])[:3]) == DATA[1, 2, 3, 0]
    assert canonical.affine[0, 0] > 0 and canonical.affine[0, 1] != 0


def test_other_channels_may_come_back_than_went():
    scan = imgmed.Volume(DATA, affine_of((2, 0, 1), (-1, 1, -1)), nib.Nifti1Header())
    mask = imgmed.to_canonical(scan).data[..., 0] > 5
    back = imgmed.from_canonical(mask, scan)
    np.testing.assert_array_equal(back.data, DATA[..., 0] > 5)
    assert back.header is scan.header


def test_data_of_another_grid_is_refused():
    with pytest.raises(ValueError, match="the scan is"):
        imgmed.from_canonical(np.zeros((9, 9, 9)), imgmed.Volume(DATA, np.eye(4)))


RNG = np.random.default_rng(3)
OBLIQUE = affine_of((1, 0, 2), (-1, 1, 1))
OBLIQUE[:3, :3] = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ OBLIQUE[:3, :3]


def corners(volume):
    """Where the outer faces of the outer voxels meet, in mm."""
    ends = np.array(list(product(*((-0.5, size - 0.5) for size in volume.data.shape[:3]))))
    return ends @ volume.affine[:3, :3].T + volume.affine[:3, 3]


@pytest.mark.parametrize("shape", [(6, 6, 8), (3, 12, 5), (1, 1, 1)])
@pytest.mark.parametrize("channels", [(), (2,)])
def test_another_shape_keeps_the_extent_whatever_the_axes(shape, channels):
    volume = imgmed.Volume(RNG.normal(size=(4, 6, 8, *channels)).astype(np.float32), OBLIQUE)
    resized = imgmed.resize(volume, shape)
    assert resized.data.shape == (*shape, *channels) and resized.data.dtype == np.float32
    np.testing.assert_allclose(corners(resized), corners(volume), atol=1e-9)


def test_halving_every_axis_averages_cubes_of_eight():
    data = RNG.normal(size=(4, 6, 8)).astype(np.float32)
    halved = imgmed.resize(imgmed.Volume(data, OBLIQUE), (2, 3, 4))
    np.testing.assert_allclose(halved.data, data.reshape(2, 2, 3, 2, 4, 2).mean(axis=(1, 3, 5)), atol=1e-6)


def test_a_ramp_along_each_axis_stays_a_ramp_in_mm():
    # What a voxel holds is its place in mm: then it does at every other spacing too, away from the ends.
    x, y, z = np.meshgrid(*(np.arange(n) for n in (12, 10, 8)), indexing="ij")
    places = (OBLIQUE @ np.stack([x, y, z, np.ones_like(x)]).reshape(4, -1))[:3].T.reshape(12, 10, 8, 3)
    scan = imgmed.Volume(places.astype(np.float32), OBLIQUE)
    fine = imgmed.resample(scan, (1.5, 0.25, 1.0))
    assert fine.data.shape == (24, 20, 16, 3)
    index = np.array([9, 7, 6])
    np.testing.assert_allclose(fine.data[tuple(index)], (fine.affine @ [*index, 1])[:3], atol=1e-4)
    assert fine.spacing_mm == pytest.approx((1.5, 0.25, 1.0))


def test_a_spacing_that_does_not_divide_the_extent_is_met_as_nearly_as_whole_voxels_can():
    scan = imgmed.Volume(np.zeros((10, 10, 10), np.float32), np.diag([1.0, 1, 1, 1]))
    assert imgmed.resample(scan, (3, 0.7, 20)).data.shape == (3, 14, 1)
    assert imgmed.resample(scan, (3, 0.7, 20)).spacing_mm == pytest.approx((10 / 3, 10 / 14, 10))


def test_a_mask_at_another_spacing_and_back_is_the_mask():
    mask = imgmed.Volume(RNG.integers(0, 4, (5, 6, 7)).astype(np.uint8), OBLIQUE)
    fine = imgmed.resample(mask, (1.0, 0.25, 1.0), labels=True)
    assert fine.data.dtype == np.uint8 and set(np.unique(fine.data)) <= {0, 1, 2, 3}
    back = imgmed.resize(fine, mask.data.shape, labels=True)
    np.testing.assert_array_equal(back.data, mask.data)
    np.testing.assert_allclose(back.affine, mask.affine, atol=1e-12)


@pytest.mark.parametrize("spacing", [(1, 1), (0, 1, 1), (-1, 1, 1), (np.nan, 1, 1)])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(ValueError, match="three numbers above 0"):
        imgmed.resample(imgmed.Volume(np.zeros((2, 2, 2)), np.eye(4)), spacing)


@pytest.mark.parametrize("start", [(1, 0, 2), (-2, 1, 0), (-1, -1, -1), (5, 5, 5)])
@pytest.mark.parametrize("data", [DATA[..., 0], DATA], ids=["3d", "4d"])
def test_a_box_keeps_its_voxels_in_their_place_and_fills_the_rest(start, data):
    volume = imgmed.Volume(data, OBLIQUE)
    box = imgmed.crop_or_pad(volume, start, (3, 4, 2), fill=-1)
    assert box.data.shape == (3, 4, 2, *data.shape[3:]) and box.data.dtype == data.dtype
    for index in product(*map(range, (3, 4, 2))):
        old = np.array(start) + index
        inside = (old >= 0).all() and (old < data.shape[:3]).all()
        np.testing.assert_array_equal(box.data[index], data[tuple(old)] if inside else np.full_like(data[0, 0, 0], -1))
        np.testing.assert_allclose(box.affine @ [*index, 1], OBLIQUE @ [*old, 1])


def test_a_pad_is_undone_by_a_crop():
    volume = imgmed.Volume(DATA, OBLIQUE)
    start = (-2, -1, -3)
    back = imgmed.crop_or_pad(imgmed.crop_or_pad(volume, start, (9, 9, 9)), [-n for n in start], (2, 3, 4))
    np.testing.assert_array_equal(back.data, DATA)
    np.testing.assert_allclose(back.affine, OBLIQUE)


def test_the_foreground_box_holds_every_voxel_that_is_not_zero_in_any_channel():
    data = np.zeros((9, 8, 7, 2))
    data[3, 2, 4, 0] = data[5, 6, 4, 1] = -1
    assert imgmed.foreground_box(data) == ((3, 2, 4), (3, 5, 1))
    assert imgmed.foreground_box(data[..., 0]) == ((3, 2, 4), (1, 1, 1))
    assert imgmed.foreground_box(data, margin=2) == ((1, 0, 2), (7, 8, 5))
    assert imgmed.foreground_box(np.zeros((9, 8, 7))) == ((0, 0, 0), (9, 8, 7))


def test_the_centred_box_of_a_larger_and_a_smaller_shape():
    assert imgmed.centred((10, 9, 4), (4, 4, 4)) == (3, 2, 0)
    assert imgmed.centred((4, 4, 4), (10, 5, 4)) == (-3, -1, 0)
