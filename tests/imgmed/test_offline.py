import shutil

import cv2
import numpy as np
import pytest

from r2d2 import imgmed
from r2d2.errors import InputError
from r2d2.imgmed import augment
from r2d2.imgmed.augment import TABLE_1, Ranges

RNG = np.random.default_rng(3)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.fixture
def folders(tmp_path):
    """Three pairs: grey of 8 bits, grey of 16 bits as TIFF, colour; each 20x30."""
    images, labels = tmp_path / "in" / "images", tmp_path / "in" / "labels"
    write(images / "a.png", RNG.integers(0, 256, (20, 30), dtype=np.uint8))
    write(images / "b.tif", RNG.integers(0, 60000, (20, 30), dtype=np.uint16))
    write(images / "c.png", RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    for name in "abc":
        write(labels / f"{name}.png", RNG.integers(0, 4, (20, 30), dtype=np.uint8))
    return images, labels


def refusal(images, labels, destination, count=5, ranges=TABLE_1):
    """The one line; nothing is left then."""
    before = set(destination.parent.iterdir())
    with pytest.raises(InputError) as caught:
        imgmed.augment_folder(images, labels, destination, count, ranges)
    assert "\n" not in str(caught.value) and set(destination.parent.iterdir()) == before
    return str(caught.value)


def test_exactly_so_many_pairs_originals_first_then_draws_over_them_in_turn(folders, tmp_path):
    images, labels = folders
    done = []
    imgmed.augment_folder(images, labels, tmp_path / "out", 8, TABLE_1, seed=4, progress=lambda: done.append(1))
    new = ["a.png", "a_augmented_1.png", "a_augmented_2.png", "b.tif", "b_augmented_1.tif", "b_augmented_2.tif"]
    new += ["c.png", "c_augmented_1.png"]
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == new
    new = [name.replace(".tif", ".png") for name in new]
    assert sorted(path.name for path in (tmp_path / "out" / "labels").iterdir()) == new
    assert len(done) == 8
    for path in [*images.iterdir(), *labels.iterdir()]:
        assert (tmp_path / "out" / path.parent.name / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("name", "index"), [("a.png", 0), ("b.tif", 1), ("c.png", 2)])
def test_a_pair_is_the_draw_of_its_seed_round_and_number_with_its_type(folders, tmp_path, name, index):
    images, labels = folders
    imgmed.augment_folder(images, labels, tmp_path / "out", 9, TABLE_1, seed=4)
    stem, suffix = name.split(".")
    image, mask = read(images / name), read(labels / f"{stem}.png")
    draw = augment.draw(TABLE_1, 4, 2, index, (20, 30))
    expected, expected_mask = augment.apply(draw, image.astype(np.float32).reshape(20, 30, -1), mask)
    new = read(tmp_path / "out" / "images" / f"{stem}_augmented_2.{suffix}")
    assert (new.dtype, new.shape) == (image.dtype, image.shape)
    np.testing.assert_array_equal(new.reshape(expected.shape), np.rint(expected))
    np.testing.assert_array_equal(read(tmp_path / "out" / "labels" / f"{stem}_augmented_2.png"), expected_mask)


def test_intensities_beyond_the_type_are_clipped_and_not_wrapped(tmp_path):
    write(tmp_path / "i" / "x.png", np.full((40, 40), 250, np.uint8))
    write(tmp_path / "l" / "x.png", np.ones((40, 40), np.uint8))
    imgmed.augment_folder(tmp_path / "i", tmp_path / "l", tmp_path / "out", 2, Ranges(noise=(5, 5)))
    new = read(tmp_path / "out" / "images" / "x_augmented_1.png")
    assert new.max() == 255 and new.min() > 200


def test_the_number_of_workers_changes_no_byte(folders, tmp_path):
    contents = []
    for workers in (1, 3):
        imgmed.augment_folder(*folders, tmp_path / str(workers), 7, TABLE_1, workers=workers)
        files = sorted((tmp_path / str(workers)).rglob("*.*"))
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert contents[0] == contents[1] and len(contents[0]) == 14


def test_labels_of_16_bits_and_float_images_keep_their_type(tmp_path):
    write(tmp_path / "i" / "x.tiff", RNG.normal(size=(20, 30)).astype(np.float32))
    write(tmp_path / "l" / "x.png", np.full((20, 30), 3000, np.uint16))
    imgmed.augment_folder(tmp_path / "i", tmp_path / "l", tmp_path / "out", 2, Ranges(rotation_degrees=(5, 5)))
    assert read(tmp_path / "out" / "images" / "x_augmented_1.tiff").dtype == np.float32
    mask = read(tmp_path / "out" / "labels" / "x_augmented_1.png")
    assert mask.dtype == np.uint16 and set(np.unique(mask)) == {0, 3000}


def test_names_that_do_not_match_are_refused_on_either_side(folders, tmp_path):
    images, labels = folders
    shutil.move(labels / "b.png", labels / "d.png")
    assert refusal(images, labels, tmp_path / "out") == (
        f"{images / 'b.tif'}: nothing of that name in {labels}; every image needs its mask"
    )
    shutil.copy(labels / "d.png", labels / "b.png")
    assert refusal(images, labels, tmp_path / "out").startswith(f"{labels / 'd.png'}: nothing of that name in {images}")


def test_a_mask_as_jpeg_is_refused_with_the_reason(folders, tmp_path):
    images, labels = folders
    write(labels / "a.jpg", read(labels / "a.png"))
    (labels / "a.png").unlink()
    assert "a.jpg: a mask as JPEG, whose compression changes labels" in refusal(images, labels, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no image", b"cut"])
@pytest.mark.parametrize("part", [0, 1])
def test_a_file_that_is_no_image_is_refused_by_name(folders, tmp_path, part, content):
    path = folders[part] / "a.png"
    path.write_bytes(path.read_bytes()[:-30] if content == b"cut" else content)
    message = refusal(*folders, tmp_path / "out")
    assert message == f"{path}: cannot be read as PNG or TIFF; it is damaged or something else"


def test_what_would_be_skipped_or_guessed_is_refused(folders, tmp_path):
    images, labels = folders
    write(images / "a.tif", read(images / "a.png"))
    assert "a.png has the same name" in refusal(images, labels, tmp_path / "out")
    (images / "a.tif").unlink()

    (images / "notes.txt").touch()
    assert "notes.txt: no PNG or TIFF" in refusal(images, labels, tmp_path / "out")
    shutil.move(images / "notes.txt", images / ".notes.txt")

    original = read(labels / "a.png")
    write(labels / "a.png", np.dstack([original] * 3))
    assert "a.png: a mask in colour (3 channels)" in refusal(images, labels, tmp_path / "out")
    write(labels / "a.png", original[:, :-1])
    assert "image 20x30, mask 20x29" in refusal(images, labels, tmp_path / "out")
    assert cv2.imwrite(str(labels / "a.png"), original // 3, [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert "a.png: has 1 bits a value" in refusal(images, labels, tmp_path / "out")
    write(labels / "a.png", original)

    assert cv2.imwritemulti(str(images / "b.tif"), [original, original])
    assert "b.tif: has 2 pages" in refusal(images, labels, tmp_path / "out")
    write(images / "b.tif", original.astype(np.float64))
    assert "b.tif: has values of float64; there may be uint8, uint16, float32" in refusal(
        images, labels, tmp_path / "out"
    )


def test_a_name_that_a_new_one_would_take_is_refused(folders, tmp_path):
    images, labels = folders
    shutil.copy(images / "a.png", images / "a_augmented_1.png")
    shutil.copy(labels / "a.png", labels / "a_augmented_1.png")
    assert "end in _augmented_ and a number" in refusal(images, labels, tmp_path / "out", count=8)


def test_counts_and_folders_that_make_no_sense_are_refused(folders, tmp_path):
    images, labels = folders
    assert "count (2) must be at least 3" in refusal(images, labels, tmp_path / "out", count=2)
    assert refusal(images / "none", labels, tmp_path / "out") == f"{images / 'none'}: no such folder"
    (tmp_path / "empty").mkdir()
    assert "has no PNG or TIFF image" in refusal(tmp_path / "empty", labels, tmp_path / "out")
    assert "is there already" in refusal(images, labels, tmp_path / "in")
    (tmp_path / "file").touch()
    assert "is there already" in refusal(images, labels, tmp_path / "file")
