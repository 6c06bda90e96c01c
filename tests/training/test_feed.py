import numpy as np
import pytest

from r2d2 import config
from r2d2.data.cases import find_cases
from r2d2.data.prepare import prepare
from r2d2.imgmed import augment
from r2d2.training.feed import Feed, global_order, share


@pytest.fixture(scope="module")
def prepared(virtual_patients, tmp_path_factory):
    data = config.Data(path=virtual_patients)
    settings = config.Preprocess(image_size=(16, 20))
    return prepare(find_cases(data), settings, tmp_path_factory.mktemp("store"))


EVERYTHING = augment.Ranges(
    (-45, 45), (0.8, 1.2), (0.0, 0.2), ("rows", "columns"), 0.06, 5, (0.7, 1.5), 0.3, (0.01, 0.1), 0.8
)


def _feed(prepared, size, rank, batch_size=1, num_logical=6, augmentation=None):
    """The feed of one of so many ranks, which are six logical workers together."""
    rows = prepared.training_rows([case.name for case in prepared.cases], config.Slices(count=5, choice="foreground"))
    return Feed(prepared, rows, 3, batch_size, num_logical, share(num_logical, size, rank), augmentation)


def test_an_order_is_a_permutation_of_seed_and_epoch_alone():
    order = global_order(1, 2, 100)
    assert sorted(order) == list(range(100))
    np.testing.assert_array_equal(order, global_order(1, 2, 100))
    for other in (global_order(1, 3, 100), global_order(2, 2, 100)):
        assert (order != other).any()


def test_shares_are_whole_and_differ_by_one_logical_worker_at_most():
    assert [share(7, 3, rank) for rank in range(3)] == [range(0, 3), range(3, 5), range(5, 7)]
    assert [len(share(18, 4, rank)) for rank in range(4)] == [5, 5, 4, 4]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_kth_global_batch_holds_the_same_images_on_any_number_of_ranks(prepared, size):
    alone = _feed(prepared, 1, 0)
    feeds = [_feed(prepared, size, rank) for rank in range(size)]
    assert alone.steps_per_epoch == 40 // 6
    assert {feed.steps_per_epoch for feed in feeds} == {alone.steps_per_epoch}
    for step in range(3 * alone.steps_per_epoch):
        together = np.concatenate([feed.batch(step) for feed in feeds])
        np.testing.assert_array_equal(together, alone.batch(step))


def test_an_epoch_holds_every_slice_at_most_once_and_leaves_out_less_than_a_batch(prepared):
    feed = _feed(prepared, 1, 0)
    for epoch in range(3):
        steps = range(epoch * feed.steps_per_epoch, (epoch + 1) * feed.steps_per_epoch)
        taken = np.concatenate([feed.batch(step) for step in steps])
        assert len(set(taken)) == len(taken) == 36
    left_out = [set(feed.rows) - set(np.concatenate([feed.batch(s) for s in range(e * 6, e * 6 + 6)])) for e in (0, 1)]
    assert left_out[0] != left_out[1]


def test_the_stream_gives_the_images_and_labels_of_its_batches_from_any_step(prepared):
    feed = _feed(prepared, 2, 1)
    streamed = list(feed.stream(4, 9))
    assert len(streamed) == 5
    for step, (images, labels) in enumerate(streamed, start=4):
        rows = feed.batch(step)
        assert images.shape == (3, 16, 20, 1)
        np.testing.assert_array_equal(images.numpy(), prepared.images[rows].astype(np.float32))
        np.testing.assert_array_equal(labels.numpy(), prepared.masks[rows])


def _arrays(stream):
    return [(images.numpy(), labels.numpy()) for images, labels in stream]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("ranges", [augment.TABLE_1, EVERYTHING], ids=["table1", "everything"])
def test_the_kth_global_batch_is_augmented_alike_on_any_number_of_ranks(prepared, ranges, size):
    alone = _arrays(_feed(prepared, 1, 0, augmentation=ranges).stream(0, 12))
    ranks = [_arrays(_feed(prepared, size, rank, augmentation=ranges).stream(0, 12)) for rank in range(size)]
    for step in range(12):
        images, labels = (np.concatenate([rank[step][part] for rank in ranks]) for part in (0, 1))
        # The last bits of powers may hang on the place in a batch.
        np.testing.assert_allclose(images, alone[step][0], rtol=0, atol=0 if ranges is augment.TABLE_1 else 1e-5)
        np.testing.assert_array_equal(labels, alone[step][1])


def test_the_pixels_of_these_images_are_not_square_which_a_rotation_heeds(prepared):
    down_mm, across_mm = prepared.pixel_mm[0]
    assert abs(down_mm / across_mm - 1) > 0.05
    turned = [augment.draw(augment.TABLE_1, 0, 0, 0, (16, 20), mm).matrix for mm in ((1, 1), (down_mm, across_mm))]
    assert np.abs(turned[0] - turned[1]).max() > 0.01


@pytest.mark.parametrize("ranges", [augment.TABLE_1, EVERYTHING], ids=["table1", "everything"])
def test_an_augmented_stream_is_the_draws_of_seed_epoch_and_row_from_any_step(prepared, ranges):
    feed = _feed(prepared, 2, 1, augmentation=ranges)
    for step, (images, labels) in enumerate(_arrays(feed.stream(4, 9)), start=4):
        for row, image, label in zip(feed.batch(step), images, labels, strict=True):
            draw = augment.draw(
                ranges, feed.seed, step // feed.steps_per_epoch, int(row), (16, 20), tuple(prepared.pixel_mm[row])
            )
            expected, mask = augment.apply(draw, prepared.images[row].astype(np.float32), prepared.masks[row])
            np.testing.assert_allclose(image, expected, rtol=0, atol=1e-4)
            assert (label != mask).mean() < 0.01


def test_an_epoch_later_an_image_is_augmented_differently(prepared):
    feed = _feed(prepared, 1, 0, augmentation=augment.TABLE_1)
    seen = {}
    for step, (images, _) in enumerate(_arrays(feed.stream(0, 2 * feed.steps_per_epoch))):
        for row, image in zip(feed.batch(step), images, strict=True):
            seen.setdefault(row, []).append(image)
    pairs = [images for images in seen.values() if len(images) == 2]
    assert len(pairs) > 20 and all((a != b).any() for a, b in pairs)
