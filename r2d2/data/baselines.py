"""What a network has to beat: two ways to label a brain without learning anything."""

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from r2d2.data.sources import icbm152

BINS = 256
TIE = 1e-6
"""The weight of a class that is not scored: it decides between thresholds that are equally good for the scored."""


def template_labels(affine: ArrayLike, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The labels of the ICBM152 average brain, as it is, on a scan's grid.

    Args:
        affine: (4, 4), from the scan's voxel indices to millimetres.
        shape: (X, Y, Z) of the scan.

    Returns:
        (X, Y, Z) uint8: 0 background, 1 grey matter, 2 white matter, 3 other brain, by the nearest voxel.
    """
    template = icbm152()
    other = np.clip(1 - template.grey - template.white, 0, None)
    labels = np.argmax(np.stack([template.grey, template.white, other]), axis=0).astype(np.uint8) + np.uint8(1)
    to_template = np.linalg.inv(template.affine) @ np.asarray(affine, np.float64)
    return ndimage.affine_transform(labels * template.brain, to_template, output_shape=shape, order=0)


def best_thresholds(
    image: NDArray[np.generic], reference: NDArray[np.integer], scored: Collection[int] | None = None
) -> NDArray[np.uint8]:
    """The labels that the best possible intensity thresholds give, chosen with the reference at hand.

    No thresholding of this image that gives one interval of intensity to each class, in the order of the classes' mean
    intensity, has a higher mean Dice over the `scored` classes: an upper bound of what intensities alone can do. All
    voxels count, the background's too; in a skull-stripped scan these are 0 and fall below the first threshold. The
    candidates for a threshold are the distinct values of the image, or, if there are more than 256, those that cut
    the voxels above the lowest value into 256 equal parts.

    Mean Dice is a sum over intervals of one class each, so that dynamic programming finds its exact maximum.

    Args:
        image: (X, Y, Z), or of any other shape.
        reference: Labels, of the image's shape.
        scored: The classes whose Dice counts; by default all but 0. One that is not scored still has its
            interval, and decides between thresholds that are equally good for the scored ones.

    Returns:
        Labels of the image's shape, uint8.
    """
    classes = [int(label) for label in np.unique(reference)]
    scored = {*classes} - {0} if scored is None else {*scored}
    classes.sort(key=lambda label: float(image[reference == label].mean()))
    edges = np.unique(image)
    if len(edges) > BINS:
        above = image[image > edges[0]]
        edges = np.unique([edges[0], *np.quantile(above, np.arange(BINS) / BINS, method="lower")])
    bins = np.searchsorted(edges, image, side="right") - 1
    voxels = np.concatenate([[0], np.cumsum(np.bincount(bins.ravel(), minlength=len(edges)))])

    n = len(edges) + 1
    best, cuts = np.where(np.arange(n) == 0, 0.0, -np.inf), []
    for label in classes:
        mine = np.cumsum(np.bincount(bins[reference == label], minlength=len(edges)))
        mine = np.concatenate([[0], mine])
        # The Dice of this class when it takes the bins from row to column, row <= column.
        hits, taken = mine - mine[:, None], voxels - voxels[:, None]
        dice = 2 * hits / np.maximum(taken + mine[-1], 1) * (1.0 if label in scored else TIE)
        total = np.where(np.tri(n, k=-1, dtype=bool), -np.inf, best[:, None] + dice)
        cuts.append(total.argmax(axis=0))
        best = total.max(axis=0)

    label_of_bin, end = np.zeros(len(edges), np.uint8), len(edges)
    for label, cut in zip(reversed(classes), reversed(cuts), strict=True):
        label_of_bin[cut[end] : end] = label
        end = cut[end]
    return label_of_bin[bins]
