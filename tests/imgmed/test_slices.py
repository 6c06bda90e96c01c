import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d2 import imgmed

RNG = np.random.default_rng(0)


def labelled(num_slices, indices):
    foreground = np.zeros(num_slices, bool)
    foreground[indices] = True
    return foreground


@pytest.mark.parametrize(
    ("num_slices", "count", "choice", "expected"),
    [
        (6, 2, "uniform", [1, 4]),
        (6, 3, "uniform", [1, 3, 5]),
        (7, 1, "uniform", [3]),
        (6, 2, "central", [2, 3]),
        (7, 3, "central", [2, 3, 4]),
        (3, None, "uniform", [0, 1, 2]),
        (3, None, "central", [0, 1, 2]),
        (3, 70, "uniform", [0, 1, 2]),
        (3, 70, "central", [0, 1, 2]),
        (1, 1, "central", [0]),
    ],
)
def test_slices_are_spread_as_chosen(num_slices, count, choice, expected):
    assert imgmed.choose_slices(num_slices, count, choice).tolist() == expected


@pytest.mark.parametrize(
    ("count", "with_label", "expected"),
    [
        (2, [3, 4, 5, 6], [4, 6]),
        (2, [1, 5, 9], [1, 9]),
        (9, [1, 5], [1, 5]),
        (None, [1, 5], [1, 5]),
        (2, [], [2, 7]),
    ],
)
def test_foreground_slices_are_those_with_a_label_or_all_where_none_has(count, with_label, expected):
    assert imgmed.choose_slices(10, count, "foreground", labelled(10, with_label)).tolist() == expected


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["uniform", "central", "foreground"]), st.data())
def test_chosen_slices_are_sorted_distinct_and_as_many_as_asked_for(num_slices, count, choice, data):
    foreground = np.array(data.draw(st.lists(st.booleans(), min_size=num_slices, max_size=num_slices)))
    chosen = imgmed.choose_slices(num_slices, count, choice, foreground)
    available = foreground.sum() if choice == "foreground" and foreground.any() else num_slices
    assert len(chosen) == min(count, available)
    assert (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < num_slices


def test_an_unknown_choice_and_a_missing_foreground_are_refused():
    with pytest.raises(ValueError, match="uniform, central, foreground"):
        imgmed.choose_slices(5, 2, "best")
    with pytest.raises(ValueError, match="array of 5"):
        imgmed.choose_slices(5, 2, "foreground")


@pytest.mark.parametrize(("plane", "shape"), [("sagittal", (2, 3, 4)), ("coronal", (3, 2, 4)), ("axial", (4, 2, 3))])
@pytest.mark.parametrize("channels", [(), (5,)])
def test_slices_are_views_and_go_back_exactly(plane, shape, channels):
    data = RNG.normal(size=(2, 3, 4, *channels))
    slices = imgmed.to_slices(data, plane)
    assert slices.shape == (*shape, *channels) and slices.base is data
    np.testing.assert_array_equal(imgmed.from_slices(slices, plane), data)


def test_an_axial_slice_is_one_height():
    data = RNG.normal(size=(2, 3, 4))
    np.testing.assert_array_equal(imgmed.to_slices(data, "axial")[1], data[:, :, 1])


def test_equal_sizes_are_left_alone():
    images = RNG.normal(size=(2, 8, 9, 3)).astype(np.float32)
    assert imgmed.resize_images(images, (8, 9)) is images
    assert imgmed.resize_probabilities(images, (8, 9)) is images
    labels = np.ones((2, 8, 9), np.uint8)
    assert np.shares_memory(imgmed.resize_labels(labels, (8, 9)), labels)


def test_shrinking_averages():
    image = np.array([[1, 3, 0, 0], [5, 7, 0, 8]], np.float32).reshape(1, 2, 4, 1)
    np.testing.assert_allclose(imgmed.resize_images(image, (1, 2)).ravel(), [4, 2])


def test_an_axis_that_shrinks_is_averaged_while_the_other_grows_linearly():
    image = np.array([[0, 4], [2, 6]], np.float32).reshape(1, 2, 2, 1)
    # Rows averaged: 1, 5; then linear between pixel centres, a quarter pixel apart from the old ones.
    np.testing.assert_allclose(imgmed.resize_images(image, (1, 4)).ravel(), [1, 2, 4, 5])


@pytest.mark.parametrize("resize", [imgmed.resize_images, imgmed.resize_probabilities])
@pytest.mark.parametrize("size", [(20, 24), (7, 5), (20, 5)])
def test_each_of_many_channels_and_images_is_resized_alone(resize, size):
    images = RNG.normal(size=(3, 10, 12, 6)).astype(np.float32)
    result = resize(images, size)
    assert result.shape == (3, *size, 6) and result.dtype == np.float32
    np.testing.assert_array_equal(result[1:2, ..., 4:5], resize(images[1:2, ..., 4:5], size))


def test_views_with_steps_resize_as_their_copies():
    images = RNG.normal(size=(12, 10, 3, 2)).astype(np.float32)
    view = np.moveaxis(images, 2, 0)[:, ::-1]
    np.testing.assert_array_equal(imgmed.resize_images(view, (5, 20)), imgmed.resize_images(view.copy(), (5, 20)))


@settings(deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(4, 40), st.integers(4, 40))
def test_resized_probabilities_still_sum_to_1(height, width, rows, columns):
    p = RNG.dirichlet(np.ones(3), (1, height, width)).astype(np.float32)
    np.testing.assert_allclose(imgmed.resize_probabilities(p, (rows, columns)).sum(axis=-1), 1, atol=1e-5)


@settings(deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(4, 40), st.integers(4, 40))
def test_no_resize_of_a_mask_makes_a_new_label(height, width, rows, columns):
    labels = RNG.choice(np.array([0, 1, 7], np.uint8), (2, height, width))
    resized = imgmed.resize_labels(labels, (rows, columns))
    assert resized.shape == (2, rows, columns) and resized.dtype == np.uint8
    assert set(np.unique(resized)) <= {0, 1, 7}


def test_a_mask_enlarged_by_a_whole_factor_and_shrunk_again_is_the_same():
    labels = RNG.integers(0, 4, (2, 9, 7)).astype(np.uint8)
    for factor in (2, 3, 5):
        larger = imgmed.resize_labels(labels, (9 * factor, 7 * factor))
        np.testing.assert_array_equal(larger, labels.repeat(factor, axis=1).repeat(factor, axis=2))
        np.testing.assert_array_equal(imgmed.resize_labels(larger, (9, 7)), labels)


def centre(image):
    rows, columns = np.indices(image.shape)
    return np.array([(rows * image).sum(), (columns * image).sum()]) / image.sum()


@pytest.mark.parametrize("size", [(80, 60), (128, 128), (33, 41), (20, 90)])
def test_a_centred_object_stays_centred_there_and_back(size):
    image = np.zeros((1, 40, 50, 1), np.float32)
    image[0, 12:28, 18:32] = 1
    middle = np.array([19.5, 24.5])
    new_middle = (np.array(size) - 1) / 2
    there = imgmed.resize_images(image, size)
    np.testing.assert_allclose(centre(there[0, ..., 0]), new_middle, atol=0.01)
    np.testing.assert_allclose(centre(imgmed.resize_images(there, (40, 50))[0, ..., 0]), middle, atol=0.01)
    np.testing.assert_allclose(centre(imgmed.resize_probabilities(there, (40, 50))[0, ..., 0]), middle, atol=0.01)
    labels = image[..., 0].astype(np.uint8)
    mask = imgmed.resize_labels(labels, size)
    assert np.abs(centre(mask[0]) - new_middle).max() <= 0.5
    assert np.abs(centre(imgmed.resize_labels(mask, (40, 50))[0]) - middle).max() <= 0.5


@pytest.mark.parametrize("plane", imgmed.PLANES)
@pytest.mark.parametrize("channels", [(), (2,)])
def test_chosen_slices_come_back_where_they_were_and_the_others_are_zero(plane, channels):
    volume = np.random.default_rng(0).normal(size=(5, 6, 7, *channels))
    stack = imgmed.to_slices(volume, plane)
    chosen = imgmed.choose_slices(len(stack), 3, "uniform")
    back = imgmed.from_slices(stack[chosen], plane, chosen, len(stack))
    assert back.shape == volume.shape
    again = imgmed.to_slices(back, plane)
    np.testing.assert_array_equal(again[chosen], stack[chosen])
    assert not np.delete(again, chosen, axis=0).any()


FRAMES = {
    "stretched": imgmed.frame((20, 30), (40, 24)),
    "padded": imgmed.frame((20, 30), (64, 64), (1.0, 1.0), 1.0),
    "cropped": imgmed.frame((20, 31), (16, 16), (1.0, 1.0), 1.0),
    "scaled": imgmed.frame((20, 30), (50, 50), (2.0, 1.0), 0.8),
    "cut": imgmed.frame((20, 30), (24, 24), (1.0, 1.0), 1.0, box=(2, 5, 15, 21)),
}


@pytest.mark.parametrize("by", FRAMES.values(), ids=FRAMES)
def test_a_mask_framed_and_back_is_the_mask_wherever_the_images_reach(by):
    mask = np.zeros((2, *by.native), np.uint8)
    mask[:, 6:14, 9:20] = 1
    mask[:, 9:12, 12:15] = 2
    framed = imgmed.frame_labels(mask, by)
    assert framed.shape == (2, *by.size)
    back = imgmed.unframe_probabilities(np.eye(3, dtype=np.float32)[framed], by)
    assert back.shape == (2, *by.native, 3)
    np.testing.assert_allclose(back.sum(axis=-1), 1, atol=1e-6)
    whole = all(scaled <= size for scaled, size in zip(by.scaled, by.size, strict=True))
    agree = (back.argmax(axis=-1) == mask).mean()
    assert agree == 1 if by.scaled == by.box[2:] and whole else agree > 0.9


@pytest.mark.parametrize("by", FRAMES.values(), ids=FRAMES)
def test_the_voxels_that_are_shown_are_those_that_a_mask_of_all_comes_back_for(by):
    everything = np.ones((1, *by.native), np.uint8)
    framed = imgmed.frame_labels(everything, by)
    back = imgmed.unframe_probabilities(np.eye(2, dtype=np.float32)[framed], by)[0, ..., 1] > 0.5
    expected = np.zeros(by.native, bool)
    expected[imgmed.shown(by)] = True
    np.testing.assert_array_equal(back, expected)


def test_images_and_masks_are_framed_alike():
    mask = np.zeros((1, 20, 30), np.uint8)
    mask[0, 4:10, 12:22] = 1
    for by in FRAMES.values():
        image = imgmed.frame_images(mask[..., None].astype(np.float32), by)[..., 0]
        assert ((image > 0.5) == imgmed.frame_labels(mask, by)).mean() > 0.97


def test_pixels_of_half_the_size_show_the_slice_twice_as_large_about_its_middle():
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    by = imgmed.frame((3, 4), (8, 8), (2.0, 1.0), 1.0)
    assert by.scaled == (6, 4)
    framed = imgmed.frame_images(image, by)[0, :, :, 0]
    np.testing.assert_allclose(framed[1:7, 2:6].mean(), image.mean())
    assert not framed[0].any() and not framed[7].any() and not framed[:, :2].any() and not framed[:, 6:].any()


def test_what_the_images_do_not_reach_is_background_for_certain():
    by = imgmed.frame((20, 20), (8, 8), (1.0, 1.0), 1.0)
    probabilities = np.zeros((1, 8, 8, 2), np.float32)
    probabilities[..., 1] = 1
    back = imgmed.unframe_probabilities(probabilities, by)
    assert back[0, 6:14, 6:14, 1].all() and back[..., 1].sum() == 64
    assert (back[0, 0] == [1, 0]).all()


@pytest.mark.parametrize("pixel_mm", [None, 0.7, 2.5])
@pytest.mark.parametrize("box", [None, (2, 3, 9, 12)])
@pytest.mark.parametrize("size", [(10, 14), (14, 17)])
def test_labels_are_the_largest_of_the_probabilities_on_the_scans_own_slices(pixel_mm, box, size):
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1, 1], (3, *size)).astype(np.float32)
    probabilities[0] = 0.25  # all alike: the first
    by = imgmed.frame((14, 17), size, (1.5, 1.0), pixel_mm, box)
    expected = imgmed.unframe_probabilities(probabilities, by).argmax(axis=-1)
    found = imgmed.unframe_labels(probabilities, by)
    assert found.dtype == np.uint8 and len(np.unique(found)) == 4
    np.testing.assert_array_equal(found, expected)
