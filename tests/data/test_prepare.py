import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import nibabel as nib
import numpy as np
import pytest

import r2d2.data.prepare as module
from r2d2.config import Data, Preprocess, Slices, parse
from r2d2.data.cases import find_cases
from r2d2.data.parallel import spread
from r2d2.data.prepare import augmentation, open_prepared, prepare, to_images
from r2d2.errors import InputError
from r2d2.imgmed import Frame, Volume, augment, correct_bias, resize_labels, to_slices

SPACING_MM = np.array([3.0, 2.0, 1.5])
CLASSES = {0: "background", 1: "edema", 2: "tumour"}

# By hand: a scan is made on canonical axes (right, front, top), then stored on the axes that its name says.
STORED = {
    "RAS": (lambda data: data, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "LAS": (lambda data: data[::-1], [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    # Axes to the back, the top, the right: stored[p, s, r] = canonical[r, -p, s].
    "PSR": (lambda data: np.moveaxis(data[:, ::-1], 0, 2), [[0, 0, 1], [-1, 0, 0], [0, 1, 0]]),
}


def store_as(path, data, axes):
    turn, directions = STORED[axes]
    affine = np.eye(4)
    affine[:3, :3] = np.array(directions) * SPACING_MM[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(turn(data), affine).to_filename(path)
    return path


def scan(shape, seed):
    data = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    data[0] = 0  # air
    return data


def mask(shape):
    """Labels in the slices 2 to 6 of the last axis; no two corners alike."""
    labels = np.zeros(shape, np.uint8)
    labels[1:4, 2:5, 2:-1] = 1
    labels[1, 2, 2:-1] = 2
    return labels


CASES = {"a": ("RAS", (12, 10, 8)), "b": ("PSR", (9, 11, 8)), "c": ("LAS", (12, 10, 8))}


def plain(folder, cases=CASES, suffix=".nii.gz"):
    """A dataset of `cases` and what is in it on canonical axes: name -> (scan, mask)."""
    made = {}
    for seed, (name, (axes, shape)) in enumerate(cases.items()):
        made[name] = scan(shape, seed), mask(shape)
        store_as(folder / "images" / f"{name}{suffix}", made[name][0], axes)
        store_as(folder / "labels" / f"{name}{suffix}", made[name][1], axes)
    return find_cases(Data(path=folder, labels=CLASSES)), made


AS_IT_IS = Preprocess(normalization="none", image_size=(12, 10), slices={"count": 3, "choice": "foreground"})


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three cases on three kinds of axes, prepared axially with their intensities as they are."""
    folder = tmp_path_factory.mktemp("three")
    dataset, made = plain(folder / "data")
    return dataset, made, prepare(dataset, AS_IT_IS, folder / "store", partial(spread, workers=2)), folder


def kept(store):
    """What a store holds beside its locks."""
    return sorted(path.name for path in store.iterdir() if path.name != ".locks")


def test_the_index_says_where_every_case_lies(three):
    *_, prepared, _ = three
    assert prepared.labels == CLASSES and prepared.channels == ("0",)
    assert [case.name for case in prepared.cases] == [case.patient for case in prepared.cases] == ["a", "b", "c"]
    assert [case.grid for case in prepared.cases] == [(8, 12, 10), (8, 9, 11), (8, 12, 10)]
    assert [case.slices for case in prepared.cases] == [8, 8, 8]
    assert [case.first for case in prepared.cases] == [0, 8, 16]
    assert [case.voxel for case in prepared.cases] == [0, 960, 960 + 792]
    assert [case.spacing_mm for case in prepared.cases] == [(1.5, 3.0, 2.0)] * 3
    assert len({case.content for case in prepared.cases}) == 3


def test_the_arrays_have_the_types_and_shapes_of_the_index(three):
    *_, prepared, _ = three
    assert prepared.images.shape == (24, 12, 10, 1) and prepared.images.dtype == np.float32
    assert prepared.masks.shape == (24, 12, 10) and prepared.masks.dtype == np.uint8
    assert prepared.references.shape == (960 + 792 + 960,) and prepared.references.dtype == np.uint8
    assert isinstance(prepared.images, np.memmap) and not prepared.images.flags.writeable


def test_the_reference_is_the_label_on_canonical_axes_slice_by_slice(three):
    _, made, prepared, _ = three
    for case in prepared.cases:
        reference = prepared.reference(case)
        assert reference.shape == case.grid
        for z in range(case.slices):
            np.testing.assert_array_equal(reference[z], made[case.name][1][:, :, z])


def test_slices_of_the_wanted_size_are_the_scans_own_whatever_its_axes(three):
    _, made, prepared, _ = three
    for name, first in (("a", 0), ("c", 16)):
        image, labels = made[name]
        for z in range(8):
            np.testing.assert_array_equal(prepared.images[first + z, :, :, 0], image[:, :, z])
            np.testing.assert_array_equal(prepared.masks[first + z], labels[:, :, z])


def test_masks_of_another_size_have_the_same_classes_in_the_same_slices(three):
    *_, prepared, _ = three
    masks = prepared.masks[8:16]
    assert set(np.unique(masks)) == {0, 1, 2}
    assert masks.any(axis=(1, 2)).tolist() == [False, False, True, True, True, True, True, False]


def test_the_chosen_slices_are_the_middles_of_equal_parts_of_those_with_a_label(three):
    # Labels in the slices 2, 3, 4, 5, 6; three of five: the parts' middles are the first, the third, the fifth.
    *_, prepared, _ = three
    assert [case.labelled for case in prepared.cases] == [(2, 3, 4, 5, 6)] * 3
    assert prepared.training_rows(["c", "a"], AS_IT_IS.slices).tolist() == [2, 4, 6, 18, 20, 22]
    assert [case.name for case in prepared.select(["c", "a"])] == ["a", "c"]


def test_pixels_are_counted_by_class_in_the_images_of_the_rows_alone(three):
    _, made, prepared, _ = three
    labels = np.stack([made["a"][1][:, :, 2], made["c"][1][:, :, 4]])
    assert prepared.pixels(np.array([2, 20])).tolist() == [(labels == value).sum() for value in CLASSES]
    assert prepared.pixels(np.array([0])).tolist() == [120, 0, 0]


def test_the_folder_is_named_by_its_hash_and_nothing_lies_beside_it(three):
    *_, prepared, folder = three
    assert kept(folder / "store") == [prepared.key]
    assert {path.name for path in prepared.folder.iterdir()} == {
        "images.npy",
        "labels.npy",
        "references.npy",
        "index.json",
        "fingerprint.json",
    }
    assert json.loads((prepared.folder / "index.json").read_text())["key"] == prepared.key


def state(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in [folder, *folder.iterdir()]}


def test_prepared_data_are_found_again_and_not_written_again(three, monkeypatch):
    dataset, _, prepared, folder = three
    before = state(prepared.folder)
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("it was prepared a second time"))
    again = prepare(dataset, AS_IT_IS.model_copy(update={"slices": Slices()}), folder / "store")
    assert again == prepared == open_prepared(prepared.folder)
    assert state(prepared.folder) == before


def test_the_same_files_in_another_folder_are_the_same_data(three, tmp_path, monkeypatch):
    _, _, prepared, folder = three
    shutil.copytree(folder / "data", tmp_path / "moved")
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("it was prepared a second time"))
    dataset = find_cases(Data(path=tmp_path / "moved", labels=CLASSES))
    assert prepare(dataset, AS_IT_IS, folder / "store") == prepared


def test_one_byte_or_one_setting_more_is_other_data(tmp_path):
    cases = {"a": CASES["a"]}
    dataset, made = plain(tmp_path / "data", cases, ".nii")
    first = prepare(dataset, AS_IT_IS, tmp_path / "store")

    smaller = AS_IT_IS.model_copy(update={"image_size": (8, 8)})
    keys = [first.key, prepare(dataset, smaller, tmp_path / "store").key]
    for path in (tmp_path / "data/images/a.nii", tmp_path / "data/labels/a.nii"):
        content = bytearray(path.read_bytes())
        content[352 + 4] ^= 1  # a bit of a voxel's value, behind NIfTI's header of 352 bytes
        path.write_bytes(content)
        keys.append(prepare(dataset, AS_IT_IS, tmp_path / "store").key)
    assert len(set(keys)) == 4
    assert kept(tmp_path / "store") == sorted(keys)
    last = open_prepared(tmp_path / "store" / keys[-1])
    changed = last.reference(last.cases[0]) != np.moveaxis(made["a"][1], 2, 0)
    assert np.argwhere(changed).tolist() == [[0, 4, 0]]  # the fifth voxel of the file, whose first axis is fastest


def decathlon(folder, shape=(12, 10, 8)):
    image = np.stack([scan(shape, 1), 3 * scan(shape, 2) + 50], axis=-1)
    turn, directions = STORED["LAS"]
    affine = np.eye(4)
    affine[:3, :3] = np.array(directions) * SPACING_MM[:, None]
    for part, data in (("imagesTr", image), ("labelsTr", mask(shape))):
        (folder / part).mkdir(parents=True)
        nib.Nifti1Image(turn(data), affine).to_filename(folder / part / "case.nii.gz")
    about = {
        "labels": {str(value): name for value, name in CLASSES.items()},
        "modality": {"0": "FLAIR", "1": "T1w"},
        "training": [{"image": "imagesTr/case.nii.gz", "label": "labelsTr/case.nii.gz"}],
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return find_cases(Data(path=folder)), image


def test_channels_come_in_the_order_asked_for_each_normalized_on_its_own(tmp_path):
    dataset, image = decathlon(tmp_path / "data")
    settings = Preprocess(
        channels=(1, 0), plane="coronal", image_size=(12, 8), slices={"count": 4, "choice": "central"}
    )
    prepared = prepare(dataset, settings, tmp_path / "store")
    assert prepared.channels == ("T1w", "FLAIR") and prepared.images.shape == (10, 12, 8, 2)
    assert prepared.images.dtype == np.float16
    (case,) = prepared.cases
    assert case.grid == (10, 12, 8)
    assert prepared.training_rows(["case"], settings.slices).tolist() == [3, 4, 5, 6]
    for to, source in ((0, 1), (1, 0)):
        channel = image[..., source].astype(np.float64)
        inside = channel != 0
        expected = np.where(inside, (channel - channel[inside].mean()) / channel[inside].std(), 0)
        for y in range(10):
            np.testing.assert_allclose(prepared.images[y, :, :, to], expected[:, y, :], atol=4e-3)
            np.testing.assert_array_equal(prepared.reference(case)[y], mask((12, 10, 8))[:, y, :])


def test_all_channels_come_as_they_are_if_none_is_asked_for(tmp_path):
    dataset, image = decathlon(tmp_path / "data")
    prepared = prepare(dataset, AS_IT_IS, tmp_path / "store")
    assert prepared.channels == ("FLAIR", "T1w")
    np.testing.assert_array_equal(prepared.images, np.moveaxis(image, 2, 0))


def test_a_scan_of_three_axes_is_an_image_of_one_channel():
    data = scan((12, 10, 8), 0)
    images, frame = to_images(Volume(data, np.eye(4)), AS_IT_IS)
    assert frame == Frame((12, 10), (0, 0, 12, 10), (12, 10), (12, 10))
    assert images.shape == (8, 12, 10, 1)
    np.testing.assert_array_equal(images[3, :, :, 0], data[:, :, 3])


def test_pixels_of_a_size_in_mm_show_every_case_at_the_same_scale(three, tmp_path):
    dataset, made, *_ = three
    # Slices of 12x10 (and 9x11) pixels of 3x2 mm; images of 16x16 pixels of 1.5 mm: 36x20 mm are 24x13 pixels.
    settings = Preprocess(normalization="none", image_size=(16, 16), pixel_mm=1.5)
    prepared = prepare(dataset, settings, tmp_path / "store")
    a, b, _ = prepared.cases
    assert a.frame == Frame((12, 10), (0, 0, 12, 10), (24, 13), (16, 16))
    assert b.frame == Frame((9, 11), (0, 0, 9, 11), (18, 15), (16, 16))
    # Rows twice as fine and cropped by 4 on either side: row 0 of the image is row 2 of the scan.
    labels = prepared.masks[4]
    np.testing.assert_array_equal(
        labels[:2, 1:14], np.repeat(resize_labels(made["a"][1][2:3, :, 4][None], (1, 13))[0], 2, 0)
    )
    assert (labels[:, 0] == 0).all() and (labels[:, 14:] == 0).all()


def test_a_foreground_crop_cuts_every_slice_to_the_box_of_the_scan(tmp_path):
    cases = {"a": ("PSR", (12, 10, 8))}
    plain(tmp_path / "data", cases)
    inner = np.zeros((12, 10, 8), np.float32)
    inner[3:9, 2:7, 1:6] = np.random.default_rng(0).normal(100, 10, (6, 5, 5))
    store_as(tmp_path / "data/images/a.nii.gz", inner, "PSR")
    dataset = find_cases(Data(path=tmp_path / "data", labels=CLASSES))
    settings = Preprocess(normalization="none", image_size=(12, 10), crop="foreground")
    prepared = prepare(dataset, settings, tmp_path / "store")
    assert prepared.cases[0].frame == Frame((12, 10), (3, 2, 6, 5), (12, 10), (12, 10))
    np.testing.assert_array_equal(prepared.masks[4], np.kron(mask((12, 10, 8))[3:9, 2:7, 4], np.ones((2, 2), np.uint8)))


def test_the_images_pixels_have_the_size_in_mm_that_the_body_has_in_them(three, tmp_path):
    dataset, _, prepared, _ = three
    # Slices of 12x10 (and 9x11) pixels of 3x2 mm, stretched to 12x10.
    assert prepared.pixel_mm.shape == (24, 2)
    np.testing.assert_allclose(prepared.pixel_mm[[0, 7, 8, 15, 16]], [(3, 2), (3, 2), (2.25, 2.2), (2.25, 2.2), (3, 2)])
    square = prepare(dataset, AS_IT_IS.model_copy(update={"pixel_mm": 1.5}), tmp_path / "store")
    np.testing.assert_allclose(square.pixel_mm, 1.5, rtol=0.03)


def test_a_mask_is_turned_as_its_scan_is_where_their_affines_differ_by_rounding(tmp_path):
    data, labels = scan((12, 10, 8), 0), mask((12, 10, 8))
    for part, values, degrees in (("images", data, 44.99), ("labels", labels, 45.01)):
        turn, affine = np.deg2rad(degrees), np.eye(4)
        affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        (tmp_path / "data" / part).mkdir(parents=True)
        nib.Nifti1Image(values, affine).to_filename(tmp_path / "data" / part / "a.nii.gz")
    dataset = find_cases(Data(path=tmp_path / "data", labels=CLASSES))
    prepared = prepare(dataset, AS_IT_IS, tmp_path / "store")
    np.testing.assert_array_equal(prepared.images[..., 0], np.moveaxis(data, 2, 0))
    np.testing.assert_array_equal(prepared.masks, np.moveaxis(labels, 2, 0))
    np.testing.assert_array_equal(prepared.reference(prepared.cases[0]), np.moveaxis(labels, 2, 0))


def test_a_bias_field_is_taken_out_of_every_channel_before_it_is_normalized(tmp_path):
    dataset, image = decathlon(tmp_path / "data")
    settings = AS_IT_IS.model_copy(update={"bias_correction": "n4"})
    prepared = prepare(dataset, settings, tmp_path / "store")
    for c in range(2):
        expected = correct_bias(image[..., c], (3.0, 2.0, 1.5))
        assert not np.allclose(expected, image[..., c], rtol=1e-3)
        np.testing.assert_allclose(prepared.images[..., c], np.moveaxis(expected, 2, 0), rtol=1e-5)


def test_labelled_voxels_that_the_images_do_not_show_are_told(three, tmp_path, capsys):
    dataset, *_ = three
    prepare(dataset, AS_IT_IS, tmp_path / "store", map)
    assert "beyond the edges" not in capsys.readouterr().err
    # Of 36x20 mm 8x8 are shown; rows 1 to 3 of 3 mm are labelled (3 to 12 mm), and 14 to 22 mm shown.
    prepare(dataset, AS_IT_IS.model_copy(update={"image_size": (8, 8), "pixel_mm": 1.0}), tmp_path / "store", map)
    said = capsys.readouterr().err
    assert "Labelled voxels beyond the edges of the images" in said and "a 100.0%, b " in said


def test_the_image_s_size_counts_left_right_before_front_back_and_a_picture_s_columns_before_its_rows(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)  # 20 rows of 30 columns
    for part, picture in (("images", pixels), ("labels", (pixels > 99).astype(np.uint8))):
        (tmp_path / "data" / part).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / part / "a.png"), picture)
    dataset = find_cases(Data(path=tmp_path / "data", labels={0: "background", 1: "bright"}))
    prepared = prepare(dataset, AS_IT_IS.model_copy(update={"image_size": (30, 20)}), tmp_path / "store")
    np.testing.assert_array_equal(prepared.images[0, ..., 0], pixels.T)
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None], (12, 10, 8))  # rises to the right
    images, _ = to_images(Volume(ramp, np.eye(4)), AS_IT_IS)
    assert (np.diff(images[0, ..., 0], axis=0) == 1).all() and not np.diff(images[0, ..., 0], axis=1).any()


def refusal(dataset, settings, store):
    with pytest.raises(InputError) as caught:
        prepare(dataset, settings, store)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_channel_that_the_scans_lack_is_refused_and_nothing_is_left(tmp_path):
    dataset, _ = decathlon(tmp_path / "data")
    message = refusal(dataset, AS_IT_IS.model_copy(update={"channels": (0, 2)}), tmp_path / "store")
    assert message.startswith("preprocess.channels [0, 2]: the scans have 2 channels") and "FLAIR, T1w" in message
    assert kept(tmp_path / "store") == []


def test_a_bad_case_is_named_and_nothing_is_left(tmp_path):
    dataset, made = plain(tmp_path / "data")
    bad = made["b"][0].copy()
    bad[5, 5, 5] = np.nan
    path = store_as(tmp_path / "data/images/b.nii.gz", bad, "PSR")
    (tmp_path / "data/labels/c.nii.gz").write_bytes((tmp_path / "data/labels/c.nii.gz").read_bytes()[:100])
    message = refusal(dataset, AS_IT_IS, tmp_path / "store")
    assert message.startswith(f"{path}: channel 0 has 1 voxels of NaN") and "1 more" in message
    assert kept(tmp_path / "store") == []


def test_a_store_that_cannot_be_made_is_refused(tmp_path):
    dataset, _ = decathlon(tmp_path / "data")
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in refusal(dataset, AS_IT_IS, tmp_path / "file" / "prepared")


def test_the_same_scan_of_two_patients_is_refused_whatever_its_file_looks_like(tmp_path):
    cases = {"a": ("RAS", (12, 10, 8)), "b": ("PSR", (12, 10, 8))}
    plain(tmp_path / "data", cases)
    twin = store_as(tmp_path / "data/images/b.nii.gz", scan((12, 10, 8), 0), "PSR")  # as a, on other axes
    dataset = find_cases(Data(path=tmp_path / "data", labels=CLASSES))
    message = refusal(dataset, AS_IT_IS, tmp_path / "store")
    assert twin.exists() and message.startswith("case b: the same scan as a, under another patient's name")
    assert kept(tmp_path / "store") == []


def test_a_full_disk_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    dataset, _ = decathlon(tmp_path / "data")
    with pytest.raises(InputError, match="No space left on device"):
        prepare(dataset, AS_IT_IS, tmp_path / "store", lambda *_: pytest.fail("it began"))
    assert kept(tmp_path / "store") == []


def test_what_was_interrupted_goes_on_where_it_stopped(three, tmp_path):
    dataset, _, whole, _ = three

    def interrupted(work, tasks):
        yield work(tasks[1])
        work(tasks[2])  # written, and the driver dies before it hears of it
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(dataset, AS_IT_IS, tmp_path / "store", interrupted)
    assert kept(tmp_path / "store") == [f".{whole.key}.partial"]

    def counted(work, tasks):
        names.extend(task[1].name for task in tasks)
        yield from map(work, tasks)

    names = []
    again = prepare(dataset, AS_IT_IS, tmp_path / "store", counted)
    assert names == ["a"]
    assert again.cases == whole.cases and again.fingerprint == whole.fingerprint
    for array in ("images", "masks", "references"):
        np.testing.assert_array_equal(getattr(again, array), getattr(whole, array))
    assert kept(tmp_path / "store") == [whole.key]


def test_two_who_prepare_the_same_at_once_share_what_the_first_one_made(three, tmp_path, capsys):
    dataset, *_ = three
    began, go_on = threading.Event(), threading.Event()

    def slow(work, tasks):
        began.set()
        assert go_on.wait(60)
        yield from map(work, tasks)

    def second():
        assert began.wait(60)
        return prepare(dataset, AS_IT_IS, tmp_path / "store", lambda *_: pytest.fail("it was prepared a second time"))

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(prepare, dataset, AS_IT_IS, tmp_path / "store", slow), pool.submit(second)]
        deadline = time.monotonic() + 60
        while "Waiting for another process" not in capsys.readouterr().err:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        go_on.set()
        first, other = (future.result(60) for future in futures)
    assert first == other and kept(tmp_path / "store") == [first.key]


def test_the_fingerprint_of_the_dataset_is_kept_with_the_arrays(three):
    *_, prepared, _ = three
    found = prepared.fingerprint
    assert found.cases == 3
    assert found.spacing_mm == {"min": (3.0, 2.0, 1.5), "median": (3.0, 2.0, 1.5), "max": (3.0, 2.0, 1.5)}
    assert found.shape["max"] == (12.0, 11.0, 8.0)
    assert found.classes["edema"]["cases"] == 3


@pytest.mark.parametrize(
    ("plane", "axis", "reversed_axis"),
    [
        ("axial", "left-right", 0),
        ("axial", "front-back", 1),
        ("sagittal", "bottom-top", 2),
        ("coronal", "left-right", 0),
    ],
)
def test_a_flip_reverses_the_axis_of_the_patient_that_it_names(plane, axis, reversed_axis):
    settings = [f"preprocess.plane={plane}", f"training.augmentation={{flip: [{axis}]}}"]
    experiment = parse("{name: x, data: {path: x}, preprocess: {image_size: [8, 8]}}", settings)
    volume = np.arange(512, dtype=np.float32).reshape(8, 8, 8)
    images = to_slices(volume, plane)[..., None]
    expected = to_slices(np.flip(volume, reversed_axis), plane)
    ranges = augmentation(experiment)
    draws = [augment.draw(ranges, 0, 0, number, (8, 8)) for number in range(20)]
    found = {augment.apply(draw, images[2], np.zeros((8, 8), np.uint8))[0].tobytes() for draw in draws}
    assert found == {images[2].tobytes(), expected[2].tobytes()}
