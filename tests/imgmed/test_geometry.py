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
