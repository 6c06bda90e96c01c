import struct
import zlib

import cv2
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from r2d2 import imgmed
from r2d2.errors import InputError

RNG = np.random.default_rng(0)


def refusal(call, path):
    with pytest.raises(InputError) as caught:
        call(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_is_one_slice_with_columns_as_x(tmp_path, suffix, dtype):
    grey, colour = (RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype) for shape in ((7, 5), (7, 5, 3)))
    path = tmp_path / f"picture{suffix}"
    for pixels, shape in ((grey, (5, 7, 1)), (colour, (5, 7, 1, 3))):
        image = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("PNGImageIO" if suffix == ".png" else "TIFFImageIO")
        writer.SetFileName(str(path))
        writer.Execute(image)
        volume = imgmed.read_volume(path, dtype)
        assert volume.data.dtype == dtype
        np.testing.assert_array_equal(volume.data, pixels.swapaxes(0, 1).reshape(shape))
        np.testing.assert_array_equal(volume.affine, np.eye(4))
        assert imgmed.read_geometry(path)[0] == shape
        assert imgmed.files_of(path) == (path,)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
@pytest.mark.parametrize("shape", [(5, 7, 1), (5, 7, 1, 1), (5, 7, 1, 3)])
def test_a_slice_is_written_without_loss(tmp_path, name, dtype, shape):
    data = RNG.integers(0, 2 if dtype is bool else np.iinfo(dtype).max, shape).astype(dtype)
    imgmed.write_volume(imgmed.Volume(data, np.diag([3.0, 2, 1, 1])), tmp_path / name)
    read = imgmed.read_volume(tmp_path / name, np.uint8 if dtype is bool else dtype)
    np.testing.assert_array_equal(read.data, data[..., 0] if shape[3:] == (1,) else data)
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
    np.testing.assert_array_equal(pixels, np.squeeze(data).swapaxes(0, 1))


def test_a_jpeg_is_read_as_a_scan_and_never_as_a_mask(tmp_path):
    pixels = np.full((7, 5, 3), (200, 40, 10), np.uint8)  # OpenCV's blue, green, red
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), pixels)
    volume = imgmed.read_volume(path)
    assert volume.data.shape == (5, 7, 1, 3)
    np.testing.assert_allclose(volume.data[2, 3, 0], (10, 40, 200), atol=6)
    assert "invents labels" in refusal(imgmed.read_labels, path)
    mask = imgmed.Volume(np.zeros((5, 7, 1), np.uint8), np.eye(4))
    for name in ("b.jpg", "b.JPEG"):
        assert "invents labels" in refusal(lambda path: imgmed.write_volume(mask, path), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def save_turned(path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == orientation


def test_a_tiff_that_notes_an_orientation_is_refused(tmp_path):
    save_turned(tmp_path / "a.tif", np.zeros((16, 24), np.uint8), 6)
    assert "a TIFF counts as that notes an orientation" in refusal(imgmed.read_volume, tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("colour", [False, True])
def test_pixels_come_as_they_are_stored_whatever_orientation_a_camera_noted(tmp_path, orientation, suffix, colour):
    pixels = np.zeros((16, 24, 3) if colour else (16, 24), np.uint8)
    pixels[:8, :8] = 200  # one corner: turned or reversed it would be another
    save_turned(tmp_path / f"a.{suffix}", pixels, orientation)
    volume = imgmed.read_volume(tmp_path / f"a.{suffix}")
    assert volume.data.shape[:3] == (24, 16, 1) == imgmed.read_geometry(tmp_path / f"a.{suffix}")[0][:3]
    np.testing.assert_allclose(volume.data[:, :, 0].swapaxes(0, 1), pixels, atol=3)


def test_a_mask_goes_through_png(tmp_path):
    labels = RNG.integers(0, 255, (5, 7, 1)).astype(np.uint8)
    imgmed.write_volume(imgmed.Volume(labels, np.eye(4)), tmp_path / "mask.png")
    np.testing.assert_array_equal(imgmed.read_labels(tmp_path / "mask.png").data, labels)


@pytest.mark.parametrize("shape", [(5, 7, 2), (5, 7, 1, 2), (5, 7), (5, 7, 1, 4)])
def test_a_volume_is_not_written_as_a_picture(tmp_path, shape):
    volume = imgmed.Volume(np.zeros(shape, np.uint8), np.eye(4))
    said = refusal(lambda path: imgmed.write_volume(volume, path), tmp_path / "a.png")
    assert "one slice, grey or RGB" in said
    assert "one slice" in refusal(lambda path: imgmed.check_writable(path, shape), tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_types_that_a_picture_lacks_are_not_written(tmp_path, dtype):
    volume = imgmed.Volume(np.zeros((5, 7, 1), dtype), np.eye(4))
    assert "uint8 or uint16" in refusal(lambda path: imgmed.write_volume(volume, path), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_transparent_and_real_pictures_and_several_pages_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((7, 5, 4), np.uint8))
    assert "4 channels" in refusal(imgmed.read_volume, tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((7, 5), np.float32))
    assert "32-bit float" in refusal(imgmed.read_volume, tmp_path / "a.tif")
    cv2.imwritemulti(str(tmp_path / "b.tif"), [np.zeros((7, 5), np.uint8)] * 2)
    assert "2 pages" in refusal(imgmed.read_volume, tmp_path / "b.tif")


def test_a_png_of_absurd_size_is_refused_before_anything_is_allocated(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 1_000_000, 900_000, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    refusal(imgmed.read_volume, tmp_path / "a.png")
