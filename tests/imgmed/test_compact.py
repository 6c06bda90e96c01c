"""Small files for looking at."""

import nibabel
import numpy as np

from r2d2 import imgmed
from r2d2.imgmed import Volume, compact, painted, steps

AFFINE = np.array([[0, -2.0, 0, 5], [1.0, 0, 0, -7], [0, 0, 3.0, 2], [0, 0, 0, 1]])


def read(content, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(content)
    return imgmed.read_volume(tmp_path / "a.nii.gz"), nibabel.load(tmp_path / "a.nii.gz")


def test_whole_numbers_stay_what_they_are_and_lie_where_they_lay(tmp_path):
    data = np.random.default_rng(0).integers(-1024, 3000, (6, 7, 8)).astype(np.float32)
    found, image = read(compact(Volume(data, AFFINE), (2, 1, 4)), tmp_path)
    np.testing.assert_array_equal(found.data, data[::2, :, ::4])
    assert image.get_data_dtype() == np.int16
    # Voxel (2, 6, 4) of the volume is (1, 6, 1) of the file: the same place in the world.
    np.testing.assert_allclose(found.affine @ (1, 6, 1, 1), AFFINE @ (2, 6, 4, 1))


def test_other_numbers_keep_their_size_to_a_65535th(tmp_path):
    data = np.random.default_rng(1).normal(0.3, 0.01, (6, 7, 8)).astype(np.float32)
    data[0, 0, 0], data[1, 1, 1] = np.nan, np.inf
    found, image = read(compact(Volume(data, AFFINE)), tmp_path)
    inside = np.isfinite(data)
    span = data[inside].max() - data[inside].min()
    assert np.abs(found.data[inside] - data[inside]).max() <= span / 65000 and image.get_data_dtype() == np.int16
    assert found.data[0, 0, 0] == found.data[1, 1, 1] == found.data.min()


def test_a_mask_is_painted_and_a_plain_image_stays_plain(tmp_path):
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1:3] = 2
    (tmp_path / "m.nii.gz").write_bytes(painted(Volume(mask, AFFINE), [(1, 2, 3), (4, 5, 6)], (1, 2, 1)))
    found = np.asarray(nibabel.load(tmp_path / "m.nii.gz").dataobj)
    assert found.shape == (4, 2, 4) and found[0, 0, 0].tolist() == (0, 0, 0, 0)
    assert found[1, 1, 3].tolist() == found[2, 0, 0].tolist() == (4, 5, 6, 255)
    plain, _ = read(compact(Volume(np.full((2, 2, 2), 0.5, np.float32), AFFINE)), tmp_path)
    np.testing.assert_allclose(plain.data, 0.5)


def test_the_finest_axis_is_thinned_out_first():
    volume = Volume(np.zeros((512, 512, 40), np.uint8), np.diag([0.7, 0.7, 5.0, 1.0]))
    assert steps(volume) == (1, 1, 1)
    assert sorted(steps(volume, 512 * 256 * 40)) == [1, 1, 2] and steps(volume, 512 * 256 * 40)[2] == 1
    assert steps(volume, 256 * 256 * 40) == (2, 2, 1)
