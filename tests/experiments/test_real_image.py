import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from r2d2 import imgmed
from r2d2.errors import InputError

FILE = Path(__file__).parents[2] / "experiments" / "real_image" / "run.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("real_image_run", FILE)
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


def volume(data, x_mm=(1.0, 0.0), y=0.0, z=0.0):
    affine = np.eye(4)
    affine[0, 0], affine[:3, 3] = x_mm[0], (x_mm[1], y, z)
    return imgmed.Volume(data, affine)


def test_all_32_labels_of_the_atlas_have_a_tissue_and_none_has_two(script):
    numbers = [number for names in script.FREESURFER.values() for number in names]
    assert len(numbers) == len(set(numbers)) == 33  # and 0, outside


def test_cortex_is_grey_fibres_are_white_fluid_is_neither(script):
    atlas = np.array([0, 3, 42, 8, 47, 13, 52, 2, 41, 7, 46, 16, 28, 60, 4, 14, 24])
    assert script.tissues(atlas).tolist() == [0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0]


def test_a_label_that_no_tissue_is_known_for_is_refused(script):
    with pytest.raises(InputError, match="label 77"):
        script.tissues(np.array([0, 3, 77]))


def test_the_flipped_atlas_and_the_cropped_scan_lie_on_one_grid(script, tmp_path):
    scan = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)
    atlas = np.zeros((3, 2, 2), np.uint8)
    atlas[0, 0, 0] = 42  # first voxel of an axis to the left: at x = 14
    imgmed.write_volume(volume(scan, (1.0, 10.0)), tmp_path / "t1.nii.gz")
    imgmed.write_volume(volume(atlas, (-1.0, 14.0), 2.0, 1.0), tmp_path / "atlas.nii.gz")
    t1, labels = script.on_one_grid(tmp_path / "t1.nii.gz", tmp_path / "atlas.nii.gz")
    assert t1.data.shape == labels.data.shape == (3, 2, 2)
    assert np.array_equal(t1.data, scan[2:5, 2:4, 1:3]) and np.array_equal(t1.affine, labels.affine)
    assert t1.data[labels.data == 42].tolist() == [scan[4, 2, 1]]


def test_an_atlas_between_the_voxels_or_beyond_the_scan_is_refused(script, tmp_path):
    imgmed.write_volume(volume(np.ones((6, 5, 4), np.int16)), tmp_path / "t1.nii.gz")
    for number, x in enumerate((0.5, 4.0, -1.0)):
        imgmed.write_volume(volume(np.ones((3, 2, 2), np.uint8), (1.0, x)), tmp_path / f"{number}.nii.gz")
        with pytest.raises(InputError):
            script.on_one_grid(tmp_path / "t1.nii.gz", tmp_path / f"{number}.nii.gz")


@pytest.mark.parametrize("block_mm", [1, 2])
def test_labels_come_back_to_the_voxels_they_were_predicted_for(script, block_mm):
    scan = volume(np.zeros((6, 4, 4), np.float32))
    scan.data[2:4, 2:4, 0:2] = 8.0
    form = script.Form("", block_mm=block_mm)
    image = script.in_form(scan, form, (10.0, 8.0))
    assert image.data.shape == (10 // block_mm, 8 // block_mm, 4 // block_mm)
    # What lies at a place in mm lay there before.
    middle = np.linalg.solve(image.affine, [*(np.array([2.5, 2.5, 0.5])), 1.0])[:3]
    assert image.data[tuple(np.rint(middle + 0.01).astype(int))] == 8.0
    back = script.back_on_grid((image.data > 0).astype(np.uint8), scan, form, (10.0, 8.0))
    assert np.array_equal(back, scan.data > 0)


def test_a_field_of_view_smaller_than_the_image_is_refused(script):
    with pytest.raises(InputError, match="--field-mm 5 8"):
        script.in_form(volume(np.zeros((6, 4, 4), np.float32)), script.MAIN, (5.0, 8.0))
