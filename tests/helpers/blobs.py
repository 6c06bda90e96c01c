"""Masks for tests; what MONAI says of them is in monai.json."""

import numpy as np


def blobs(seed, shape=(14, 13, 12), part=0.3):
    """Two masks of random blobs that have something in common, off the edges of the grid."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(3, *shape))
    for axis in (1, 2, 3):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    masks = [noise[0] + noise[i] > np.quantile(noise[0] + noise[i], 1 - part) for i in (1, 2)]
    for mask in masks:
        mask[[0, -1]] = mask[:, [0, -1]] = mask[:, :, [0, -1]] = False
    return masks
