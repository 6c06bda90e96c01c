import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from helpers.dicoms import LPS, oblique_affine
from isal import igzip

from r2d2 import imgmed
from r2d2.errors import InputError

AFFINE = oblique_affine()
RNG = np.random.default_rng(0)
SCAN = RNG.integers(0, 100, (4, 5, 6)).astype(np.int16)


def refusal(path):
    with pytest.raises(InputError) as caught:
        imgmed.read_volume(path)
    assert str(path.parent) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def save(path, data, compressed=False):
    """Write (X, Y, Z[, C]) by SimpleITK."""
    image = sitk.GetImageFromArray(np.moveaxis(data.T, 0, -1) if data.ndim == 4 else data.T, isVector=data.ndim == 4)
    lps = LPS @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    image.SetOrigin(lps[:3, 3])
    sitk.WriteImage(image, str(path), compressed)
    return path


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 3)])
def test_what_simpleitk_writes_is_read(tmp_path, suffix, compressed, shape):
    data = RNG.integers(-500, 500, shape).astype(np.int16)
    path = save(tmp_path / f"scan{suffix}", data, compressed)
    volume = imgmed.read_volume(path)
    assert volume.data.dtype == np.float32 and volume.data.flags.writeable
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-14, atol=1e-14)
    geometry = imgmed.read_geometry(path)
    assert geometry[0] == shape
    np.testing.assert_array_equal(geometry[1], volume.affine)
    assert set(imgmed.files_of(path)) == set(tmp_path.iterdir()) and imgmed.files_of(path)[0] == path


@pytest.mark.parametrize("name", ["scan.mha", "scan.mhd", "scan.nrrd"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 3)])
def test_simpleitk_reads_what_is_written(tmp_path, name, shape):
    data = RNG.integers(-500, 500, shape).astype(np.int16)
    imgmed.write_volume(imgmed.Volume(data, AFFINE), tmp_path / name)
    image = sitk.ReadImage(str(tmp_path / name))
    assert image.GetNumberOfComponentsPerPixel() == (3 if len(shape) == 4 else 1)
    for voxel in ((0, 0, 0), (3, 1, 2)):
        values = image.GetPixel(voxel)
        np.testing.assert_array_equal(values, data[voxel])
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(voxel), (LPS @ AFFINE @ (*voxel, 1))[:3])


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64]
)
def test_all_types_of_simpleitk_are_read_and_written(tmp_path, suffix, dtype):
    data = RNG.integers(0, 100, (4, 5, 6)).astype(dtype)
    path = save(tmp_path / f"scan{suffix}", data)
    np.testing.assert_array_equal(imgmed.read_volume(path, np.float64).data, data)
    imgmed.write_volume(imgmed.Volume(data, AFFINE), path)
    image = sitk.ReadImage(str(path))
    assert sitk.GetArrayViewFromImage(image).dtype == dtype
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image).T, data)


def test_a_4d_metaimage_has_its_fourth_axis_as_channels(tmp_path):
    image = sitk.JoinSeries([sitk.GetImageFromArray((SCAN + t).T) for t in range(3)])
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    volume = imgmed.read_volume(tmp_path / "scan.mha")
    np.testing.assert_array_equal(volume.data, np.stack([SCAN, SCAN + 1, SCAN + 2], axis=-1))
    np.testing.assert_array_equal(volume.affine, LPS)


def metaimage(path, voxels, **fields):
    head = {
        **{"ObjectType": "Image", "NDims": "3", "DimSize": "4 5 6", "ElementType": "MET_SHORT"},
        **{"ElementDataFile": "LOCAL"} | fields,
    }
    head["ElementDataFile"] = head.pop("ElementDataFile")
    path.write_bytes("".join(f"{key} = {value}\n" for key, value in head.items()).encode() + voxels)
    return path


def test_big_endian_voxels_old_names_and_a_header_size_are_read(tmp_path):
    place = {"Orientation": "0 1 0 1 0 0 0 0 1", "Position": "1 2 3", "ElementSize": "2 3 4"}
    path = metaimage(tmp_path / "a.mha", SCAN.astype(">i2").tobytes(order="F"), ElementByteOrderMSB="True", **place)
    volume = imgmed.read_volume(path)
    np.testing.assert_array_equal(volume.data, SCAN)
    # The first axis runs along LPS y at 2 mm, the second along x at 3 mm.
    np.testing.assert_array_equal(volume.affine, LPS @ [[0, 3, 0, 1], [2, 0, 0, 2], [0, 0, 4, 3], [0, 0, 0, 1]])
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((1, 2, 3)), (LPS @ volume.affine @ (1, 2, 3, 1))[:3])
    for skip in ("10", "-1"):
        (tmp_path / "a.raw").write_bytes(bytes(10) + SCAN.tobytes(order="F"))
        path = metaimage(tmp_path / "a.mhd", b"", ElementDataFile="a.raw", HeaderSize=skip)
        np.testing.assert_array_equal(imgmed.read_volume(path).data, SCAN)


def nrrd(path, voxels, **fields):
    head = {
        **{"type": "short", "dimension": "3", "sizes": "4 5 6", "endian": "little", "encoding": "raw"},
        **fields,
    }
    lines = [f"{key.replace('_', ' ')}: {value}" for key, value in head.items() if value is not None]
    path.write_bytes("\n".join(["NRRD0005", "# by hand", *lines, "key:=value", "", ""]).encode() + voxels)
    return path


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1)),
        ("LPS", (-1, -1)),
        ("right-anterior-superior", (1, 1)),
        ("RAS", (1, 1)),
        ("left-anterior-superior", (-1, 1)),
        ("scanner-xyz", (-1, -1)),
    ],
)
def test_nrrd_spaces_are_turned_to_ras_as_simpleitk_turns_them(tmp_path, space, signs):
    place = {"space_directions": "(2,0,0) (0,3,0) (0,0,4)", "space_origin": "(1,2,3)"}
    path = nrrd(tmp_path / "scan.nrrd", SCAN.tobytes(order="F"), space=space, **place)
    volume = imgmed.read_volume(path)
    (x, y), data = signs, volume.data
    np.testing.assert_array_equal(volume.affine, [[2 * x, 0, 0, x], [0, 3 * y, 0, 2 * y], [0, 0, 4, 3], [0, 0, 0, 1]])
    np.testing.assert_array_equal(data, SCAN)
    point = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint((1, 2, 3))
    np.testing.assert_allclose(point, (LPS @ volume.affine @ (1, 2, 3, 1))[:3])


@pytest.mark.parametrize(
    ("kinds", "directions", "axis"),
    [
        ("vector domain domain domain", "none (2,0,0) (0,3,0) (0,0,4)", 0),
        ("domain domain domain list", "(2,0,0) (0,3,0) (0,0,4) none", 3),
        ("domain domain domain time", None, 3),
    ],
)
def test_nrrd_channels_are_found_wherever_they_lie(tmp_path, kinds, directions, axis):
    data = RNG.integers(0, 9, (4, 5, 6, 3)).astype(np.int16)
    stored = np.moveaxis(data, -1, axis)
    place = {"space": "RAS", "space_directions": directions} if directions else {"spacings": "2 3 4 1"}
    sizes = " ".join(str(n) for n in stored.shape)
    path = nrrd(tmp_path / "a.nrrd", stored.tobytes(order="F"), dimension="4", sizes=sizes, kinds=kinds, **place)
    volume = imgmed.read_volume(path)
    np.testing.assert_array_equal(volume.data, data)
    assert volume.spacing_mm == (2, 3, 4)


def test_nrrd_skips_and_types_by_all_their_names_are_read(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", bytes(7) + SCAN.tobytes(order="F"), byte_skip="-1", type="signed short int")
    np.testing.assert_array_equal(imgmed.read_volume(path).data, SCAN)
    packed = igzip.compress(bytes(7) + SCAN.astype(">u2").tobytes(order="F"))
    path = nrrd(tmp_path / "b.nrrd", packed, byte_skip="7", type="unsigned short", endian="big", encoding="gz")
    np.testing.assert_array_equal(imgmed.read_volume(path).data, SCAN)
    for number, name in enumerate(("uchar", "unsigned char", "uint8", "uint8_t")):
        voxels = SCAN.astype(np.uint8).tobytes(order="F")
        path = nrrd(tmp_path / f"{number}.nrrd", voxels, type=name, endian=None)
        np.testing.assert_array_equal(imgmed.read_volume(path).data, SCAN)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_damaged_compressed_voxels_are_refused(tmp_path, suffix):
    path = save(tmp_path / f"scan{suffix}", RNG.integers(0, 9999, (9, 9, 9)).astype(np.int16), compressed=True)
    content = bytearray(path.read_bytes())
    for place in (-1, -200, -600):
        changed = content.copy()
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        refusal(path)
    path.write_bytes(content[:-100])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("name", ["../a.raw", "/etc/passwd", "b/../../a.raw", "..\\a.raw", "C:\\a.raw", "a\0.raw"])
def test_a_data_file_outside_the_header_s_folder_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.raw").write_bytes(SCAN.tobytes(order="F"))
    assert "inside the header's folder" in refusal(metaimage(tmp_path / "in/a.mhd", b"", ElementDataFile=name))
    assert "inside the header's folder" in refusal(nrrd(tmp_path / "in/a.nhdr", b"", data_file=name))


@pytest.mark.parametrize("name", ["LIST", "slice%03d.raw 1 6 1", "LIST 2"])
def test_voxels_in_several_files_are_refused(tmp_path, name):
    assert "must lie in one file" in refusal(metaimage(tmp_path / "a.mhd", b"", ElementDataFile=name))
    assert "must lie in one file" in refusal(nrrd(tmp_path / "a.nhdr", b"", data_file=name))


def test_a_pair_is_written_together_or_not_at_all(tmp_path):
    imgmed.write_volume(imgmed.Volume(SCAN, AFFINE), tmp_path / "a.mhd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mhd", "a.raw"]
    assert b"ElementDataFile = a.raw" in (tmp_path / "a.mhd").read_bytes()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError):
        imgmed.write_volume(imgmed.Volume(SCAN.astype(np.complex64), AFFINE), tmp_path / "a.mhd")
    (tmp_path / "b.raw").mkdir()
    with pytest.raises(InputError):
        imgmed.write_volume(imgmed.Volume(SCAN, AFFINE), tmp_path / "b.mhd")
    (tmp_path / "b.raw").rmdir()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_exact_numbers_survive_that_text_could_round(tmp_path):
    affine = np.eye(4)
    affine[:3, 3] = (1 / 3, -2e-17, 123456789.123456789)
    for name in ("a.mha", "a.nrrd"):
        imgmed.write_volume(imgmed.Volume(SCAN, affine), tmp_path / name)
        assert struct.pack("16d", *imgmed.read_volume(tmp_path / name).affine.ravel()) == struct.pack(
            "16d", *affine.ravel()
        )
