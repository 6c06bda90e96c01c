"""TensorFlow on a batch and OpenCV one by one do the same."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from r2d2.imgmed import augment as single
from r2d2.imgmed.augment import TABLE_1, Ranges
from r2d2.training import augment

TOLERANCE = 1e-4
"""Of intensities whose deviation is 1: a fifth of the error (2^-11) that float16, which they are kept in, has at 1.
What differs is the last bits of a place in float32: some 1e-5 pixels at 240, times a step between pixels of up to 4."""

RANGES = {
    "table1": TABLE_1,
    "flip": Ranges(flip=("rows", "columns")),
    "elastic": Ranges(elastic=0.06, elastic_cells=6),
    "gamma": Ranges(gamma=(0.7, 1.5)),
    "bias": Ranges(bias=0.3),
    "noise": Ranges(noise=(0.0, 0.2)),
    "some": Ranges((-45, 45), (0.8, 1.2), gamma=(0.7, 1.5), bias=0.3, noise=(0.1, 0.1), probability=0.5),
    "everything": Ranges(
        (-180, 180), (0.7, 1.4), (-0.1, 0.1), ("rows", "columns"), 0.06, 5, (0.7, 1.5), 0.3, (0.01, 0.1)
    ),
}


def scans(n, rows, columns, channels):
    """Smooth images in a background of 0, z-scored as scans are, and masks of blobs."""
    rng = np.random.default_rng(11)
    images = ndimage.gaussian_filter(rng.normal(size=(n, rows, columns, channels)), (0, 1, 1, 0))
    images = (images / images.std()).astype(np.float32)
    images[:, : rows // 8] = 0
    masks = ndimage.gaussian_filter(rng.normal(size=(n, rows, columns)), (0, 5, 5))
    return images, np.digitize(masks, np.quantile(masks, [0.4, 0.6, 0.8])).astype(np.uint8)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("shape", [(240, 240, 1), (61, 88, 3)])
def test_both_agree_on_images_and_on_masks_away_from_edges(name, shape):
    ranges, n = RANGES[name], 16
    images, masks = scans(n, *shape)
    draws = [single.draw(ranges, 3, 4, index, shape[:2]) for index in range(n)]
    stacked = augment.stack(draws, ranges, shape[2])
    new_images, new_masks = augment.augment(tf.constant(images), tf.constant(masks), stacked, ranges)
    differing = 0
    for i, draw in enumerate(draws):
        image, mask = single.apply(draw, images[i], masks[i])
        np.testing.assert_allclose(new_images[i], image, rtol=0, atol=TOLERANCE)
        differs = new_masks[i].numpy() != mask
        edges = ndimage.maximum_filter(mask, 3) != ndimage.minimum_filter(mask, 3)
        edges |= ndimage.maximum_filter(new_masks[i], 3) != ndimage.minimum_filter(new_masks[i], 3)
        assert not differs[~edges].any()
        differing += differs.sum()
    # On an edge, a place may lie between two pixels to the last bit.
    assert differing <= 1e-4 * masks.size


def test_a_batch_that_is_not_augmented_keeps_every_bit():
    ranges = replace(RANGES["everything"], probability=0.0)
    images, masks = scans(3, 20, 30, 2)
    draws = [single.draw(ranges, 0, 0, index, (20, 30)) for index in range(3)]
    new = augment.augment(tf.constant(images), tf.constant(masks), augment.stack(draws, ranges, 2), ranges)
    np.testing.assert_array_equal(new[0], images)
    np.testing.assert_array_equal(new[1], masks)


def test_the_noise_is_the_same_numbers():
    ranges = RANGES["noise"]
    draws = [single.draw(ranges, 0, 0, index, (9, 7)) for index in range(2)]
    stacked = augment.stack(draws, ranges, 2)
    zeros = tf.zeros((2, 9, 7, 2))
    images, _ = augment.augment(zeros, tf.zeros((2, 9, 7), tf.uint8), stacked, ranges)
    np.testing.assert_array_equal(images, [single.noise(draw, 2) for draw in draws])
    assert (images[0].numpy() != images[1].numpy()).all()


def test_what_lies_far_outside_is_0():
    ranges = Ranges(shift=(1.0, 1.0))
    images, masks = tf.ones((2, 12, 17, 1)), tf.ones((2, 12, 17), tf.uint8)
    draws = [single.draw(ranges, 0, 0, index, (12, 17)) for index in range(2)]
    images, masks = augment.augment(images, masks, augment.stack(draws, ranges, 1), ranges)
    assert not images.numpy().any() and not masks.numpy().any()
