import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip

from r2d2 import imgmed
from r2d2.errors import InputError

AFFINE = np.array([[-3.0, 0, 0, 10], [0, 0.5, 0, -20], [0, 0, 2.0, 30], [0, 0, 0, 1]])
RNG = np.random.default_rng(0)


def save(path, data, affine=AFFINE, kind=nib.Nifti1Image, slope=None):
    image = kind(data, affine)
    if slope:
        image.header.set_slope_inter(*slope)
    image.to_filename(path)
    return path


def refusal(read, path):
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_scan_is_read_as_nibabel_reads_it(tmp_path, suffix, kind):
    data = RNG.integers(-500, 500, (4, 5, 6, 2)).astype(np.int16)
    path = save(tmp_path / f"scan{suffix}", data, kind=kind)
    volume = imgmed.read_volume(path)
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
    assert volume.spacing_mm == (3.0, 0.5, 2.0)
    shape, affine = imgmed.read_geometry(path)
    assert shape == (4, 5, 6, 2)
    np.testing.assert_array_equal(affine, volume.affine)


def test_slope_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), AFFINE)
    content = bytearray(image.to_bytes())
    content[352:] = np.full(8, 10, "<i2").tobytes()
    content[112:120] = struct.pack("<ff", 0.5, -1.0)
    (tmp_path / "scan.nii").write_bytes(content)
    assert (imgmed.read_volume(tmp_path / "scan.nii").data == 4.0).all()


def test_big_endian_files_are_read(tmp_path):
    data = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(">f4"))
    nib.Nifti1Image(data, AFFINE, header).to_filename(tmp_path / "scan.nii.gz")
    volume = imgmed.read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.data, data)
    assert volume.data.dtype.isnative
    np.testing.assert_array_equal(volume.affine, AFFINE)


def test_a_fourth_axis_of_one_is_dropped(tmp_path):
    path = save(tmp_path / "scan.nii.gz", np.zeros((4, 5, 6, 1), np.float32))
    assert imgmed.read_volume(path).data.shape == (4, 5, 6)
    assert imgmed.read_geometry(path)[0] == (4, 5, 6)


def test_axes_of_one_are_dropped_and_vectors_of_itk_are_channels(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((4, 5, 6, 1, 1), np.float32))
    assert imgmed.read_volume(path).data.shape == imgmed.read_geometry(path)[0] == (4, 5, 6)
    data = RNG.normal(size=(6, 5, 4, 2)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(data, isVector=True), str(tmp_path / "b.nii.gz"))
    assert nib.load(tmp_path / "b.nii.gz").shape == (4, 5, 6, 1, 2)
    volume = imgmed.read_volume(tmp_path / "b.nii.gz")
    assert imgmed.read_geometry(tmp_path / "b.nii.gz")[0] == (4, 5, 6, 2)
    np.testing.assert_array_equal(volume.data, data.transpose(2, 1, 0, 3))
    scaled = save(tmp_path / "c.nii", data.transpose(2, 1, 0, 3)[:, :, :, None].astype(np.float64), slope=(2.0, 1.0))
    np.testing.assert_allclose(imgmed.read_volume(scaled).data, 2 * volume.data + 1, rtol=1e-5, atol=1e-6)


def test_gzip_of_several_members_and_a_wrong_suffix_are_read(tmp_path):
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    content = nib.Nifti1Image(data, AFFINE).to_bytes()
    (tmp_path / "scan.nii").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(imgmed.read_volume(tmp_path / "scan.nii").data, data)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_masks_of_any_type_become_uint8(tmp_path, dtype):
    labels = RNG.integers(0, 255, (3, 4, 5))
    path = save(tmp_path / "mask.nii.gz", labels.astype(dtype))
    volume = imgmed.read_labels(path)
    assert volume.data.dtype == np.uint8
    np.testing.assert_array_equal(volume.data, labels)


def test_a_scaled_mask_is_rounded_to_whole_numbers(tmp_path):
    content = bytearray(nib.Nifti1Image(np.full((2, 2, 2), 255, np.uint8), AFFINE).to_bytes())
    content[112:120] = struct.pack("<ff", 1 / 255, 0.0)
    (tmp_path / "mask.nii").write_bytes(content)
    assert (imgmed.read_labels(tmp_path / "mask.nii").data == 1).all()


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5"), (-1, "-1"), (255, "255"), (np.nan, "nan"), (np.inf, "inf")])
def test_a_mask_with_another_value_is_refused_by_value_and_rule(tmp_path, value, text):
    labels = np.zeros((3, 4, 5), np.float32)
    labels[1, 2, 3] = value
    message = refusal(imgmed.read_labels, save(tmp_path / "mask.nii.gz", labels))
    assert f"it holds {text}" in message and "whole numbers from 0 to 254" in message


def test_a_mask_with_channels_is_refused(tmp_path):
    assert "3x4x5x2" in refusal(imgmed.read_labels, save(tmp_path / "mask.nii.gz", np.zeros((3, 4, 5, 2), np.uint8)))


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4, 5, 6)])
def test_other_numbers_of_axes_are_refused(tmp_path, shape):
    path = save(tmp_path / "scan.nii.gz", np.zeros(shape, np.float32))
    for read in (imgmed.read_volume, imgmed.read_geometry):
        assert "3 or 4 axes" in refusal(read, path)


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_complex_and_colour_voxels_are_refused(tmp_path, dtype):
    path = save(tmp_path / "scan.nii.gz", np.zeros((2, 3, 4), dtype))
    for read in (imgmed.read_volume, imgmed.read_geometry):
        assert "whole or real numbers" in refusal(read, path)


def test_a_truncated_gz_is_refused(tmp_path):
    path = save(tmp_path / "scan.nii.gz", RNG.normal(size=(20, 20, 20)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:-2000])
    assert "truncated" in refusal(imgmed.read_volume, path)
    assert imgmed.read_geometry(path)[0] == (20, 20, 20)


def test_a_gz_without_its_last_bytes_is_refused(tmp_path):
    path = save(tmp_path / "scan.nii.gz", np.zeros((4, 5, 6), np.float32))
    path.write_bytes(path.read_bytes()[:-4])
    refusal(imgmed.read_volume, path)


def test_a_damaged_gz_is_refused(tmp_path):
    path = save(tmp_path / "scan.nii.gz", RNG.normal(size=(20, 20, 20)).astype(np.float32))
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # the checksum
    path.write_bytes(content)
    refusal(imgmed.read_volume, path)


def test_a_truncated_nii_is_refused(tmp_path):
    path = save(tmp_path / "scan.nii", np.zeros((4, 5, 6), np.float32))
    path.write_bytes(path.read_bytes()[:-1])
    for read in (imgmed.read_volume, imgmed.read_geometry):
        assert "4x5x6 float32 (832 bytes), too much for a file of 831 bytes" in refusal(read, path)


@pytest.mark.parametrize("content", [b"", b"no scan", b"\x1f\x8b", b"\x89PNG" + bytes(1000), bytes(1000), b"\1" * 1000])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_no_nifti_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    for read in (imgmed.read_volume, imgmed.read_labels, imgmed.read_geometry):
        refusal(read, path)


@pytest.mark.parametrize("magic", [b"ni1\0", b"xyz\0"])
def test_a_wrong_magic_is_refused(tmp_path, magic):
    path = save(tmp_path / "scan.nii", np.zeros((4, 5, 6), np.float32))
    content = bytearray(path.read_bytes())
    content[344:348] = magic
    path.write_bytes(content)
    refusal(imgmed.read_volume, path)


@pytest.mark.parametrize("dims", [(30000, 30000, 30000), (0, 5, 6), (-4, 5, 6)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_absurd_dimensions_are_refused_before_anything_is_allocated(tmp_path, dims, suffix):
    content = bytearray(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), AFFINE).to_bytes())
    content[42:48] = struct.pack("<3h", *dims)
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(igzip.compress(bytes(content)) if suffix == ".nii.gz" else content)
    for read in (imgmed.read_volume, imgmed.read_geometry):
        refusal(read, path)


def test_a_gz_that_holds_less_than_it_declares_is_refused(tmp_path):
    content = bytearray(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), AFFINE).to_bytes())
    content[42:48] = struct.pack("<3h", 8, 5, 6)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(igzip.compress(bytes(content)))
    assert "declares 1312 bytes, decompressed it holds 832" in refusal(imgmed.read_volume, path)


def test_a_gz_is_decompressed_no_further_than_its_header_declares(tmp_path):
    content = nib.Nifti1Image(np.ones((4, 5, 6), np.float32), AFFINE).to_bytes() + bytes(10_000_000)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(igzip.compress(content))
    assert (imgmed.read_volume(path).data == 1).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_sick_affine_is_refused(tmp_path, value):
    content = bytearray(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), AFFINE).to_bytes())
    content[280:284] = struct.pack("<f", value)  # srow_x[0]
    path = tmp_path / "scan.nii"
    path.write_bytes(content)
    for read in (imgmed.read_volume, imgmed.read_geometry):
        assert "finite and invertible" in refusal(read, path)


def test_missing_files_and_folders_are_refused(tmp_path):
    assert "no such file" in refusal(imgmed.read_volume, tmp_path / "scan.nii")
    assert "a folder" in refusal(imgmed.read_volume, tmp_path)
    assert "a folder" in refusal(imgmed.read_geometry, tmp_path)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 351), value=st.integers(0, 255), zipped=st.booleans())
def test_a_changed_byte_of_the_header_reads_or_is_refused_in_one_line(tmp_path_factory, place, value, zipped):
    content = bytearray(nib.Nifti1Image(np.ones((2, 3, 4), np.int16), AFFINE).to_bytes())
    content[place] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed.nii"
    path.write_bytes(igzip.compress(bytes(content)) if zipped else content)
    for read in (imgmed.read_volume, imgmed.read_labels, imgmed.read_geometry):
        try:
            read(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 200), value=st.integers(0, 255))
def test_a_changed_byte_of_a_gz_reads_or_is_refused_in_one_line(tmp_path_factory, place, value):
    content = bytearray(igzip.compress(nib.Nifti1Image(np.ones((2, 3, 4), np.int16), AFFINE).to_bytes(), mtime=0))
    content[place % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed.nii.gz"
    path.write_bytes(content)
    for read in (imgmed.read_volume, imgmed.read_geometry):
        try:
            read(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_written_volume_reads_back_equal(tmp_path, name, dtype):
    data = RNG.integers(0, 100, (4, 5, 6, 2)).astype(dtype)
    imgmed.write_volume(imgmed.Volume(data, AFFINE), tmp_path / name)
    volume = imgmed.read_volume(tmp_path / name, dtype)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert nib.load(tmp_path / name).get_data_dtype() == dtype
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_bool_mask_is_written_as_uint8(tmp_path):
    imgmed.write_volume(imgmed.Volume(np.ones((2, 3, 4), bool), AFFINE), tmp_path / "mask.nii")
    assert (imgmed.read_labels(tmp_path / "mask.nii").data == 1).all()


def scan_with_place(path, kind=nib.Nifti1Image):
    image = kind(np.zeros((4, 5, 6, 3), np.int16), AFFINE)
    image.set_sform(AFFINE, code=4)
    shifted = AFFINE.copy()
    shifted[:3, 3] += 1
    image.set_qform(shifted, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Mr. Smith"
    image.to_filename(path)
    return imgmed.read_volume(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_mask_has_its_scans_place_codes_and_units_and_nothing_else_of_it(tmp_path, kind):
    scan = scan_with_place(tmp_path / "scan.nii.gz", kind)
    imgmed.write_volume(imgmed.Volume(np.ones((4, 5, 6), np.uint8), scan.affine, scan.header), tmp_path / "mask.nii.gz")
    mask, reference = nib.load(tmp_path / "mask.nii.gz"), nib.load(tmp_path / "scan.nii.gz")
    assert type(mask) is kind
    for form in ("get_sform", "get_qform"):
        (left, left_code), (right, right_code) = (getattr(image, form)(coded=True) for image in (mask, reference))
        np.testing.assert_array_equal(left, right)
        assert left_code == right_code
    assert mask.header.get_xyzt_units() == ("mm", "sec")
    assert mask.header["descrip"].item() == b""


def test_a_moved_volume_keeps_the_codes_with_its_own_affine(tmp_path):
    scan = scan_with_place(tmp_path / "scan.nii.gz")
    imgmed.write_volume(imgmed.to_canonical(scan), tmp_path / "canonical.nii.gz")
    written = nib.load(tmp_path / "canonical.nii.gz")
    np.testing.assert_allclose(written.affine, imgmed.to_canonical(scan).affine)
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (4, 1)


@pytest.mark.parametrize("name", ["mask.img", "mask", "mask.gz", "mask.nii.zip"])
def test_other_suffixes_are_refused(tmp_path, name):
    volume = imgmed.Volume(np.ones((2, 3, 4), np.uint8), AFFINE)
    assert "must end in .nii, .nii.gz, .mha" in refusal(lambda path: imgmed.write_volume(volume, path), tmp_path / name)


def test_a_write_that_fails_leaves_nothing_and_harms_nothing(tmp_path):
    volume = imgmed.Volume(np.ones((2, 3, 4), np.uint8), AFFINE)
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.nii").mkdir()
    for path in (tmp_path / "none" / "mask.nii", tmp_path / "file" / "mask.nii", tmp_path / "taken.nii"):
        refusal(lambda path: imgmed.write_volume(volume, path), path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.nii"]
    imgmed.write_volume(volume, tmp_path / "mask.nii")
    unwritable = imgmed.Volume(np.ones((2, 3, 4), np.float16), AFFINE)
    refusal(lambda path: imgmed.write_volume(unwritable, path), tmp_path / "mask.nii")
    assert (imgmed.read_labels(tmp_path / "mask.nii").data == 1).all()
