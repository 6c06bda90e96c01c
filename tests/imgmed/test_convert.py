"""Listing 1 of the paper. Images of constant 8x8 blocks pass JPEG unchanged, so their values can be worked out."""

import subprocess
import sys

import cv2
import nibabel as nib
import numpy as np
import pytest

from r2d2.data.sources import icbm152
from r2d2.errors import InputError
from r2d2.img import ImgMed
from r2d2.imgmed.convert import (
    convert_4DNI_to_RGBJPG,
    convert_JPG_to_PNG,
    reshape_JPG_to2D,
    resize_img,
)

RNG = np.random.default_rng(0)
AFFINE = np.diag([3.0, 2.0, 0.5, 1.0])

# As printed, but for the package in lower case, dist_f for dest_f and a colon behind the third call.
LISTING = '''
from r2d2.img import ImgMed

def preprocessing_workflow(src_0, dest_f):
    """
    Input: N 4D NIfTII files in src_0 path
    Output:N 2D PNG 350*350 images in dest_f path
    """
    ImgMed.convert_4DNI_to_RGBJPG(src_0, dest_0,dim)
    ImgMed.reshape_JPG_to2D(dest_0, dest_1)
    ImgMed.convert_JPG_to_PNG(dest_1, dest_2)
    ImgMed.resize_img(dest_2,dest_f,'png',350,350)

src_0, dest_0, dest_1, dest_2, dest_f, dim = "src_0", "dest_0", "dest_1", "dest_2", "dest_f", 1
preprocessing_workflow(src_0, dest_f)
'''


def blocks(first):
    """(16, 32, 5): 2x4 blocks of 8x8 pixels in 5 slices, the values first, first + 10, ... along z, then y, then x."""
    values = first + 10 * np.arange(40, dtype=np.int16).reshape(2, 4, 5)
    return values.repeat(8, axis=0).repeat(8, axis=1)


def levels(z):
    """What slice z of any `blocks` becomes, worked out: the least of 40 values to 0, the largest to 255."""
    return np.rint(np.arange(40).reshape(2, 4, 5)[:, :, z] / 39 * 255).repeat(8, axis=0).repeat(8, axis=1)


def save(path, data):
    path.parent.mkdir(exist_ok=True)
    nib.Nifti1Image(data, AFFINE).to_filename(path)
    return path


@pytest.fixture
def scans(tmp_path):
    """A folder of two scans of two channels, and what macOS leaves lying about."""
    folder = tmp_path / "src_0"
    for name, first in (("la_003.nii.gz", 1000), ("la_007.nii", 3000)):
        save(folder / name, np.stack([RNG.normal(500, 100, (16, 32, 5)).astype(np.int16), blocks(first)], axis=-1))
    (folder / "._la_003.nii.gz").write_bytes(b"of macOS")
    (folder / ".DS_Store").touch()
    return folder


def pictures(folder, images, suffix=".png"):
    folder.mkdir()
    for name, image in images.items():
        assert cv2.imwrite(str(folder / f"{name}{suffix}"), image)
    return folder


def shades(shape=(24, 40)):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refusal(step, src, dest, *arguments, **options):
    """The line of a refused step, which leaves nothing where its folder would be."""
    before = set(dest.parent.iterdir()) | {dest}
    with pytest.raises(InputError) as caught:
        step(src, dest, *arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and set(dest.parent.iterdir()) | {dest} == before and not dest.exists()
    return message


STEPS = [
    pytest.param(convert_4DNI_to_RGBJPG, (0,), id="convert_4DNI_to_RGBJPG"),
    pytest.param(reshape_JPG_to2D, (), id="reshape_JPG_to2D"),
    pytest.param(convert_JPG_to_PNG, (), id="convert_JPG_to_PNG"),
    pytest.param(resize_img, ("png", 350, 350), id="resize_img"),
]
SUFFIX = {convert_4DNI_to_RGBJPG: ".nii", reshape_JPG_to2D: ".jpg", convert_JPG_to_PNG: ".jpg", resize_img: ".png"}


def good_input(step, folder, count=3):
    """A folder that a step takes, `case_0` and so on."""
    if step is convert_4DNI_to_RGBJPG:
        for n in range(count):
            save(folder / f"case_{n}.nii", RNG.normal(500, 100, (16, 24, 3)).astype(np.int16))
        return folder
    return pictures(folder, {f"case_{n}": shades() for n in range(count)}, SUFFIX[step])


def test_the_listing_runs_as_printed_in_a_script_of_these_lines_alone(tmp_path, scans):
    script = tmp_path / "workflow.py"
    script.write_text(LISTING)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "Volumes to JPEG: 2/2" in done.stderr and "Resizing: 10/10" in done.stderr
    expected = [f"{case}_z{z:03}.png" for case in ("la_003", "la_007") for z in range(5)]
    assert names(tmp_path / "dest_f") == expected
    for name in expected:
        image = read(tmp_path / "dest_f" / name)
        assert (image.shape, image.dtype) == ((350, 350), np.uint8)
        # 350 of 16 rows and 32 columns: the first and last block of 8x8 in the corners.
        worked_out = levels(int(name[-5]))
        assert (image[0, 0], image[0, -1]) == (worked_out[0, 0], worked_out[0, -1])
        assert (image[-1, 0], image[-1, -1]) == (worked_out[-1, 0], worked_out[-1, -1])
    assert names(tmp_path) == ["dest_0", "dest_1", "dest_2", "dest_f", "src_0", "workflow.py"]


def test_every_step_has_the_values_that_are_worked_out(tmp_path, scans):
    rgb, grey, png, small = (tmp_path / name for name in ("rgb", "grey", "png", "small"))
    assert ImgMed.convert_4DNI_to_RGBJPG(scans, rgb, 1) == rgb
    assert ImgMed.reshape_JPG_to2D(str(rgb), str(grey)) == grey
    assert ImgMed.convert_JPG_to_PNG(grey, png) == png
    assert ImgMed.resize_img(png, small, "png", 4, 16) == small
    for z in range(5):
        worked_out = levels(z)
        colour = read(rgb / f"la_007_z{z:03}.jpg")
        np.testing.assert_array_equal(colour, np.repeat(worked_out[..., np.newaxis], 3, axis=2))
        np.testing.assert_array_equal(read(grey / f"la_007_z{z:03}.jpg"), worked_out)
        np.testing.assert_array_equal(read(png / f"la_007_z{z:03}.png"), worked_out)
        np.testing.assert_array_equal(read(small / f"la_007_z{z:03}.png"), worked_out[::4, ::2])
    assert len(names(rgb)) == len(names(small)) == 10


def test_the_window_is_half_a_percent_from_either_end_of_what_is_not_0(tmp_path):
    data = np.zeros((32, 40, 6), np.float32)
    data[8:, 8:] = RNG.normal(-400, 90, (24, 32, 6))
    data[9, 9, 0], data[10, 10, 0] = 30000, -30000  # would be the whole window of a rule by least and largest
    save(tmp_path / "src" / "ct.nii.gz", data)
    convert_4DNI_to_RGBJPG(tmp_path / "src", tmp_path / "rgb", 0)
    low, high = np.percentile(data[data != 0], [0.5, 99.5])
    for z in range(6):
        expected = np.clip((data[:, :, z] - low) / (high - low), 0, 1) * 255
        found = read(tmp_path / "rgb" / f"ct_z{z:03}.jpg")[..., 0].astype(float)
        assert np.abs(found - expected).mean() < 4  # noise is the worst that JPEG can get


def test_a_scan_of_three_axes_has_one_channel(tmp_path):
    save(tmp_path / "src" / "a.nii.gz", blocks(1000))
    convert_4DNI_to_RGBJPG(tmp_path / "src", tmp_path / "rgb", 0)
    np.testing.assert_array_equal(read(tmp_path / "rgb" / "a_z004.jpg")[..., 1], levels(4))
    said = refusal(convert_4DNI_to_RGBJPG, tmp_path / "src", tmp_path / "none", 1)
    assert "a.nii.gz" in said and "dim (1) must be from 0 to 0" in said


@pytest.mark.parametrize("dim", [-1, 1.0, True, "1", None])
def test_what_is_no_index_is_refused(tmp_path, scans, dim):
    assert f"dim ({dim!r})" in refusal(convert_4DNI_to_RGBJPG, scans, tmp_path / "none", dim)


def test_names_sort_as_slices_do_in_long_scans(tmp_path):
    save(tmp_path / "src" / "a.nii", RNG.normal(0, 100, (8, 8, 1001)).astype(np.float32))
    convert_4DNI_to_RGBJPG(tmp_path / "src", tmp_path / "rgb", 0)
    assert names(tmp_path / "rgb") == [f"a_z{z:04}.jpg" for z in range(1001)]


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (None, "700 throughout")]
)
def test_a_channel_without_an_image_is_refused(tmp_path, value, said):
    data = np.full((8, 8, 3, 2), 700, np.float32)
    data[..., 0] = RNG.normal(size=(8, 8, 3))
    if value is not None:
        data[1, 2, 1, 1] = value
    path = save(tmp_path / "src" / "a.nii", data)
    message = refusal(convert_4DNI_to_RGBJPG, tmp_path / "src", tmp_path / "rgb", 1)
    assert str(path) in message and "channel 1" in message and said in message
    convert_4DNI_to_RGBJPG(tmp_path / "src", tmp_path / "rgb", 0)  # the other channel is one


def test_a_slice_that_jpeg_cannot_hold_is_refused(tmp_path):
    (tmp_path / "src").mkdir()
    data = RNG.normal(0, 100, (65501, 2, 2)).astype(np.float32)
    nib.Nifti2Image(data, AFFINE).to_filename(tmp_path / "src" / "long.nii")
    assert "long_z000.jpg" in refusal(convert_4DNI_to_RGBJPG, tmp_path / "src", tmp_path / "new", 0)


def mask(dtype, count=4):
    labels = np.zeros((48, 40, 30), dtype)
    for label in range(1, count):
        labels[label : 30 + label, 5:20, 3:9] = label
    return labels


@pytest.mark.parametrize(
    "data",
    [mask(np.uint8), mask(np.int16, 2), mask(np.float32), mask(np.float64, 32), mask(np.uint8, 2) * 254],
    ids=["uint8", "binary int16", "float32", "32 classes in float64", "0 and 254"],
)
def test_a_mask_is_refused_by_its_values_whatever_its_type(tmp_path, data):
    path = save(tmp_path / "src" / "a.nii.gz", data)
    said = refusal(convert_4DNI_to_RGBJPG, tmp_path / "src", tmp_path / "rgb", 0)
    assert str(path) in said and "a label never goes through JPEG" in said


@pytest.mark.parametrize(
    "data",
    [
        np.rint(icbm152().t1).astype(np.uint8)[::2, ::2, 60:80],
        np.rint(icbm152().t1 / 2).astype(np.uint8)[::2, ::2, 90:95],
        icbm152().grey[::3, ::3, ::20],
        np.rint(RNG.normal(0, 400, (20, 30, 10))).astype(np.int16),
        mask(np.int16) - 1024,
    ],
    ids=["uint8 brain", "7-bit brain", "probabilities", "CT in whole numbers", "few values below 0"],
)
def test_a_scan_is_not_taken_for_a_mask(tmp_path, data):
    save(tmp_path / "src" / "a.nii.gz", data)
    convert_4DNI_to_RGBJPG(tmp_path / "src", tmp_path / "rgb", 0)
    assert len(names(tmp_path / "rgb")) == data.shape[2]


@pytest.mark.parametrize(("step", "arguments"), STEPS)
@pytest.mark.parametrize("name", ["labels", "labelsTr", "Label_2", "masks", "mask-png"])
def test_a_folder_of_masks_is_refused_by_its_name(tmp_path, step, arguments, name):
    said = refusal(step, good_input(step, tmp_path / name), tmp_path / "new", *arguments)
    assert str(tmp_path / name) in said and "by the folder's name" in said


@pytest.mark.parametrize(("step", "arguments"), STEPS)
@pytest.mark.parametrize("name", ["labeled_scans", "imagesTr", "unmasked"])
def test_a_folder_of_scans_is_not_refused_by_its_name(tmp_path, step, arguments, name):
    step(good_input(step, tmp_path / name), tmp_path / "new", *arguments)
    assert names(tmp_path / "new")


@pytest.mark.parametrize(("step", "arguments"), STEPS[1:])
@pytest.mark.parametrize("factor", [1, 255])
def test_images_of_masks_are_refused_by_the_values_of_all_together(tmp_path, step, arguments, factor):
    count = 4 if factor == 1 else 2
    images = {f"a_{z}": mask(np.uint8, count)[:, :, z] * np.uint8(factor) for z in range(12)}
    src = pictures(tmp_path / "src", images, SUFFIX[step])
    assert "different values; a label never goes through JPEG" in refusal(step, src, tmp_path / "new", *arguments)


@pytest.mark.parametrize(("step", "arguments"), STEPS[1:])
def test_a_black_slice_is_a_slice_like_others(tmp_path, step, arguments):
    images = {"a_z000": np.zeros((24, 40), np.uint8), "a_z001": shades()}
    step(pictures(tmp_path / "src", images, SUFFIX[step]), tmp_path / "new", *arguments)
    assert [name[:6] for name in names(tmp_path / "new")] == ["a_z000", "a_z001"]
    alone = pictures(tmp_path / "alone", {"a_z000": images["a_z000"]}, SUFFIX[step])
    step(alone, tmp_path / "one", *arguments)
    assert len(names(tmp_path / "one")) == 1


def test_luminance_is_taken_of_a_colour_image(tmp_path):
    colours = np.stack([shades((4, 12)), shades((4, 12)), shades((4, 12))], axis=-1).repeat(16, 0).repeat(16, 1)
    src = pictures(tmp_path / "src", {"a": colours}, ".jpg")
    reshape_JPG_to2D(src, tmp_path / "grey")
    blue, green, red = np.moveaxis(read(src / "a.jpg").astype(float), 2, 0)
    found = read(tmp_path / "grey" / "a.jpg")
    assert found.shape == (64, 192)
    assert np.abs(found - (0.299 * red + 0.587 * green + 0.114 * blue)).mean() < 2


def test_png_keeps_what_the_jpeg_decodes_to(tmp_path):
    colour = RNG.integers(0, 256, (24, 40, 3)).astype(np.uint8)
    src = pictures(tmp_path / "src", {"grey": shades(), "colour": colour}, ".jpg")
    (src / "colour.jpg").rename(src / "colour.JPEG")
    convert_JPG_to_PNG(src, tmp_path / "png")
    assert names(tmp_path / "png") == ["colour.png", "grey.png"]
    np.testing.assert_array_equal(read(tmp_path / "png" / "grey.png"), read(src / "grey.jpg"))
    np.testing.assert_array_equal(read(tmp_path / "png" / "colour.png"), read(src / "colour.JPEG"))


def test_resizing_takes_rows_then_columns_and_averages(tmp_path):
    image = shades((6, 40)) | 1
    src = pictures(tmp_path / "src", {"a": image})
    resize_img(src, tmp_path / "small", "png", 3, 10)
    means = image.reshape(3, 2, 10, 4).mean(axis=(1, 3))
    found = read(tmp_path / "small" / "a.png")
    assert found.shape == (3, 10) and np.abs(found - means).max() <= 0.5


def test_resizing_keeps_kind_depth_and_channels(tmp_path):
    deep = RNG.integers(0, 65536, (8, 10)).astype(np.uint16)
    colour = RNG.integers(0, 256, (8, 10, 3)).astype(np.uint8)
    src = pictures(tmp_path / "src", {"deep": deep, "colour": colour})
    resize_img(src, tmp_path / "same", ".PNG", 8, 10)
    np.testing.assert_array_equal(read(tmp_path / "same" / "deep.png"), deep)
    np.testing.assert_array_equal(read(tmp_path / "same" / "colour.png"), colour)
    resize_img(src, tmp_path / "small", "png", 4, 10)
    assert np.abs(read(tmp_path / "small" / "deep.png") - deep.reshape(4, 2, 10).mean(axis=1)).max() <= 0.5
    resize_img(pictures(tmp_path / "jpg", {"a": shades()}, ".jpg"), tmp_path / "rows", "jpg", 12, 20)
    assert read(tmp_path / "rows" / "a.jpg").shape == (12, 20)


def test_masks_are_resized_by_nearest_neighbour_when_that_is_said(tmp_path):
    labels = np.zeros((9, 12), np.uint8)
    labels[3:6], labels[6:] = 2, 7
    src = pictures(tmp_path / "labels", {"a": labels})
    assert "labels=True" in refusal(resize_img, src, tmp_path / "new", "png", 18, 24)
    resize_img(src, tmp_path / "new", "png", 18, 24, labels=True)
    np.testing.assert_array_equal(read(tmp_path / "new" / "a.png"), labels.repeat(2, axis=0).repeat(2, axis=1))
    resize_img(src, tmp_path / "linear", "png", 18, 24, labels=False)
    assert set(np.unique(read(tmp_path / "linear" / "a.png"))) > {0, 2, 7}


@pytest.mark.parametrize("image", [shades((6, 8, 3)), shades((6, 8)).astype(np.uint16)], ids=["colour", "16 bits"])
def test_a_mask_has_one_channel_of_8_bits(tmp_path, image):
    src = pictures(tmp_path / "src", {"a": image})
    assert "one channel of 8 bits" in refusal(resize_img, src, tmp_path / "new", "png", 3, 4, labels=True)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("bmp", 350, 350), {}, "no images 'bmp'; there are png, jpg, jpeg"),
        (("png", 0, 350), {}, "height (0) must be"),
        (("png", 350, 2.5), {}, "width (2.5) must be"),
        (("png", 350, True), {}, "width (True) must be"),
        (("png", 350, 10**6), {}, "width (1000000) must be"),
        (("jpg", 350, 350), {"labels": True}, "labels do not go through JPEG"),
    ],
)
def test_what_cannot_be_resized_to_is_refused(tmp_path, arguments, options, said):
    src = good_input(resize_img, tmp_path / "src")
    assert said in refusal(resize_img, src, tmp_path / "new", *arguments, **options)


@pytest.mark.parametrize(("step", "arguments"), STEPS)
def test_what_a_step_does_not_take_is_refused_by_name(tmp_path, step, arguments):
    src = good_input(step, tmp_path / "src")
    for path in (src / "notes.txt", src / "report.pdf"):
        path.touch()
        assert str(path) in refusal(step, src, tmp_path / "new", *arguments)
        path.unlink()
    (src / f"folder{SUFFIX[step]}").mkdir()
    assert f"folder{SUFFIX[step]}" in refusal(step, src, tmp_path / "new", *arguments)


@pytest.mark.parametrize(("step", "arguments"), STEPS)
def test_missing_and_empty_folders_and_taken_places_are_refused(tmp_path, step, arguments):
    assert "no such folder" in refusal(step, tmp_path / "none", tmp_path / "new", *arguments)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").touch()
    assert f"no {SUFFIX[step]}" in refusal(step, tmp_path / "empty", tmp_path / "new", *arguments).replace(
        ".nii.gz or .nii", ".nii"
    )
    src = good_input(step, tmp_path / "src")
    before = {path.name: path.read_bytes() for path in src.iterdir()}
    for taken in (src, src / f"case_0{SUFFIX[step]}"):
        with pytest.raises(InputError, match="there is something there already"):
            step(src, taken, *arguments)
    assert {path.name: path.read_bytes() for path in src.iterdir()} == before


def test_two_files_of_one_name_are_refused(tmp_path):
    data = RNG.normal(size=(8, 8, 2)).astype(np.float32)
    save(tmp_path / "src" / "a.nii", data)
    save(tmp_path / "src" / "a.nii.gz", data)
    assert "the same name as a.nii" in refusal(convert_4DNI_to_RGBJPG, tmp_path / "src", tmp_path / "new", 0)


def truncated(content):
    return content[: 2 * len(content) // 3]


def other(content):
    return b"\x00\x01\x02" * 200


def nothing(content):
    return b""


def other_inside(content):
    return content[:20] + bytes(len(content) - 40) + content[-20:]


@pytest.mark.parametrize(("step", "arguments"), STEPS)
@pytest.mark.parametrize("spoil", [truncated, other, nothing, other_inside])
def test_a_damaged_file_is_refused_by_name_and_nothing_appears(tmp_path, step, arguments, spoil):
    src = good_input(step, tmp_path / "src")
    path = src / f"case_1{SUFFIX[step]}"
    path.write_bytes(spoil(path.read_bytes()))
    assert str(path) in refusal(step, src, tmp_path / "new", *arguments)


@pytest.mark.parametrize(("step", "arguments"), STEPS)
def test_two_workers_make_what_one_makes_and_tell_of_every_file(tmp_path, step, arguments):
    src = good_input(step, tmp_path / "src", count=5)
    before = {path.name: path.read_bytes() for path in src.iterdir()}
    told = []
    step(src, tmp_path / "two", *arguments, workers=2, progress=lambda done, total: told.append((done, total)))
    step(src, tmp_path / "one", *arguments, workers=1)
    assert told == [(n, 5) for n in range(1, 6)]
    assert names(tmp_path / "two") == names(tmp_path / "one") and len(names(tmp_path / "one")) >= 5
    for name in names(tmp_path / "one"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert {path.name: path.read_bytes() for path in src.iterdir()} == before
