import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.dicoms import oblique_affine, write_series

from r2d2 import imgmed
from r2d2.errors import InputError

RNG = np.random.default_rng(0)
AFFINE = oblique_affine() @ np.array([[1, 0, 0.1, 1 / 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
NIBABEL = Path(nib.__file__).parent
FILES = sorted(path for inner in ("tests", "nicom/tests") for path in (NIBABEL / inner / "data").iterdir())
CLAIMED = (".nii", ".nii.gz", ".hdr", ".img", ".mha", ".mhd", ".nrrd", ".nhdr", ".png", ".jpg", ".tif", ".dcm")


def refusal(call, path):
    with pytest.raises(InputError) as caught:
        call(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.mhd", "a.nrrd"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 2), (1, 5, 1), (4, 5, 6, 1)])
@pytest.mark.parametrize("order", ["F", "C"])
def test_voxels_and_grid_survive_a_round_trip(tmp_path, name, dtype, shape, order):
    data = np.asarray((100 * RNG.random(shape)).astype(dtype), order=order)
    before = data.copy()
    imgmed.write_volume(imgmed.Volume(data, AFFINE), tmp_path / name)
    volume = imgmed.read_volume(tmp_path / name, dtype)
    np.testing.assert_array_equal(volume.data, data.reshape(volume.data.shape))
    assert volume.data.shape == (shape[:3] if shape[3:] == (1,) else shape)
    held = AFFINE.astype(np.float32).astype(np.float64) if ".nii" in name else AFFINE
    if name.startswith("a.m"):  # unit directions and spacings, whose product is off by the last bit at most
        np.testing.assert_array_max_ulp(volume.affine, held, 1)
    else:
        np.testing.assert_array_equal(volume.affine, held)
    np.testing.assert_array_equal(data, before)
    imgmed.write_volume(imgmed.Volume(volume.data, volume.affine), tmp_path / f"again_{name}")
    again = imgmed.read_volume(tmp_path / f"again_{name}", dtype)
    np.testing.assert_array_max_ulp(again.affine, volume.affine, 1)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.mhd", "a.nrrd"])
def test_an_anisotropic_grid_along_the_axes_survives_exactly(tmp_path, name):
    affine = np.array([[0, -0.7421875, 0, 10.5], [2.5, 0, 0, -20.25], [0, 0, -1.0, 30], [0, 0, 0, 1]])
    imgmed.write_volume(imgmed.Volume(np.zeros((3, 4, 5), np.uint8), affine), tmp_path / name)
    np.testing.assert_array_equal(imgmed.read_volume(tmp_path / name).affine, affine)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_nibabel_s_own_reads_as_nibabel_reads_it_or_is_refused(path):
    try:
        volume = imgmed.read_volume(path, np.float64)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        readable = {"anatomical.nii", "functional.nii", "example4d.nii.gz", "example_nifti2.nii.gz", "standard.nii.gz"}
        assert path.name not in readable | {"reoriented_anat_moved.nii", "resampled_anat_moved.nii"}
        refusal(imgmed.read_labels, path)
        refusal(imgmed.read_geometry, path)
        return
    assert path.name.endswith(CLAIMED)
    image = nib.load(path)
    expected = image.get_fdata(caching="unchanged")
    np.testing.assert_array_equal(volume.data, expected.reshape(volume.data.shape))
    np.testing.assert_array_equal(volume.affine, image.affine)
    assert imgmed.read_geometry(path)[0] == volume.data.shape


def test_a_metaimage_does_not_replace_the_voxels_of_another_file(tmp_path):
    data = RNG.integers(0, 9, (4, 5, 6)).astype(np.uint8)
    (tmp_path / "scan.raw").write_bytes(b"somebody's..." * 20)
    mask = imgmed.Volume(data, np.eye(4))
    for said in (imgmed.check_writable, lambda path: imgmed.write_volume(mask, path)):
        assert "scan.raw, which belongs to something else" in refusal(said, tmp_path / "scan.mhd")
    assert (tmp_path / "scan.raw").read_bytes() == b"somebody's..." * 20 and not (tmp_path / "scan.mhd").exists()
    imgmed.write_volume(mask, tmp_path / "mask.mhd")
    imgmed.write_volume(imgmed.Volume(data + 1, np.eye(4)), tmp_path / "mask.mhd")  # its own
    np.testing.assert_array_equal(imgmed.read_labels(tmp_path / "mask.mhd").data, data + 1)
    (tmp_path / "mask.mhd").write_text((tmp_path / "mask.mhd").read_text().replace("mask.raw", "scan.raw"))
    assert "belongs to something else" in refusal(imgmed.check_writable, tmp_path / "mask.mhd")


def test_values_of_a_mask_are_given_the_classes_numbers(tmp_path):
    for dtype in (np.uint8, np.float32):
        values = np.array([0, 255, 1, 4], dtype).reshape(2, 2, 1)
        imgmed.write_volume(imgmed.Volume(values, np.eye(4)), tmp_path / "mask.nii")
        assert "holds 255" in refusal(imgmed.read_labels, tmp_path / "mask.nii")
        mask = imgmed.read_labels(tmp_path / "mask.nii", {255: 2, 4: 3})
        assert mask.data.dtype == np.uint8 and mask.data.ravel().tolist() == [0, 2, 1, 3]
    imgmed.write_volume(
        imgmed.Volume(np.array([0, 255, 1000], np.int16).reshape(3, 1, 1), np.eye(4)), tmp_path / "a.nii"
    )
    assert "holds 255" in refusal(lambda path: imgmed.read_labels(path, {1000: 1}), tmp_path / "a.nii")
    assert imgmed.read_labels(tmp_path / "a.nii", {1000: 1, 255: 2}).data.ravel().tolist() == [0, 2, 1]
    assert "holds 1000" in refusal(lambda path: imgmed.read_labels(path, {255: 1}), tmp_path / "a.nii")


def test_a_pair_of_header_and_image_is_read_by_either_name(tmp_path):
    data = RNG.integers(-500, 500, (4, 5, 6)).astype(np.int16)
    for kind in (nib.Nifti1Pair, nib.Nifti2Pair):
        kind(data, AFFINE).to_filename(tmp_path / "a.hdr")
        pair = (tmp_path / "a.hdr", tmp_path / "a.img")
        for path in pair:
            volume = imgmed.read_volume(path)
            np.testing.assert_array_equal(volume.data, data)
            np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
            assert imgmed.read_geometry(path)[0] == (4, 5, 6)
            assert imgmed.files_of(path) == pair
    (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-1])
    for read in (imgmed.read_volume, imgmed.read_geometry):
        assert "too much for a file of 239 bytes" in refusal(lambda path, read=read: read(path), tmp_path / "a.img")


@pytest.mark.parametrize("name", ["scan.dcm", "IM0001.IMA"])
def test_one_dicom_file_is_refused_with_the_way_out(tmp_path, name):
    write_series(tmp_path, np.zeros((4, 5, 2), np.int16), AFFINE, name="{:02d}" + name)
    assert "the folder of its series" in refusal(imgmed.read_volume, tmp_path / f"00{name}")


@pytest.mark.parametrize("name", ["scan", "scan.txt", "scan.gz", "scan.mnc", "scan.mgz"])
def test_what_is_no_volume_by_its_name_is_refused_with_those_that_are(tmp_path, name):
    (tmp_path / name).write_bytes(b"scan")
    for call in (imgmed.read_volume, imgmed.read_labels, imgmed.read_geometry, imgmed.files_of):
        assert "a volume is .nii, .nii.gz" in refusal(call, tmp_path / name)
    assert "no such file" in refusal(imgmed.read_volume, tmp_path / f"no-{name}")


@pytest.mark.parametrize("name", ["a.nii", "a.hdr", "a.mha", "a.nrrd", "a.png"])
def test_a_missing_file_a_pipe_and_an_empty_folder_are_refused(tmp_path, name):
    calls = (imgmed.read_volume, imgmed.read_labels, imgmed.read_geometry, imgmed.files_of)
    for call in calls:
        assert "no such file" in refusal(call, tmp_path / name)
    os.mkfifo(tmp_path / name)
    for call in calls:
        assert "not a regular file" in refusal(call, tmp_path / name)
    (tmp_path / f"folder_{name}").mkdir()
    for call in calls:
        assert "a folder without a DICOM image" in refusal(call, tmp_path / f"folder_{name}")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.mhd", "a.nrrd"])
def test_a_type_that_no_format_holds_is_not_written(tmp_path, name):
    for dtype in (np.complex64, np.float16):
        volume = imgmed.Volume(np.zeros((4, 5, 6), dtype), AFFINE)
        refusal(lambda path, volume=volume: imgmed.write_volume(volume, path), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.mhd", "a.nrrd"])
def test_masks_survive_every_format(tmp_path, name):
    labels = RNG.integers(0, 255, (4, 5, 6)).astype(np.uint8)
    imgmed.write_volume(imgmed.Volume(labels, AFFINE), tmp_path / name)
    mask = imgmed.read_labels(tmp_path / name)
    assert mask.data.dtype == np.uint8
    np.testing.assert_array_equal(mask.data, labels)
    imgmed.write_volume(imgmed.Volume(labels == 3, AFFINE), tmp_path / name)
    np.testing.assert_array_equal(imgmed.read_labels(tmp_path / name).data, labels == 3)


def test_a_volume_s_name_is_without_its_suffix(tmp_path):
    names = {"a.nii.gz": "a", "a.b.NII": "a.b", "a.mhd": "a", "a.hdr": "a", "a.jpeg": "a", "a.nrrd": "a"}
    assert {name: imgmed.volume_name(name) for name in names} == names
    assert imgmed.volume_name(tmp_path) == tmp_path.name  # of a series
    assert all(imgmed.volume_name(name) is None for name in ("a.img", "a.raw", "a.txt", "a.dcm", "a.nii.gz.part"))


def test_channels_in_files_of_their_own_are_one_volume_in_their_order(tmp_path):
    channels = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    paths = [tmp_path / "flair.nii", tmp_path / "t1.mha"]
    for path, data in zip(paths, channels, strict=True):
        imgmed.write_volume(imgmed.Volume(data, np.diag([3.0, 2, 1, 1])), path)
    volume = imgmed.read_channels(paths)
    assert volume.data.shape == (5, 4, 3, 2) and volume.spacing_mm == (3, 2, 1)
    np.testing.assert_array_equal(volume.data[..., 1], channels[1])
    np.testing.assert_array_equal(imgmed.read_channels(paths[:1]).data, channels[0])
    imgmed.write_volume(volume, tmp_path / "both.nii")
    with pytest.raises(InputError, match=r"both\.nii: one of 2 channels, and has 2 itself"):
        imgmed.read_channels([paths[0], tmp_path / "both.nii"])
