"""Masks: other numbers for the classes, and the largest piece of each."""

from collections.abc import Collection, Mapping

import numpy as np
from scipy import ndimage


def remap_labels(labels: np.ndarray, numbers: Mapping[int, int]) -> np.ndarray:
    """Return a mask with other numbers for its classes.

    Args:
        labels: (X, Y, Z) uint8.
        numbers: The new number of each old one, e.g. {1: 1, 2: 1, 3: 1} for the whole tumour; background stays 0 if it
            is not named.

    Returns:
        (X, Y, Z) uint8.

    Raises:
        ValueError: The mask holds a label that has no new number, or a number is not 0 to 254.
    """
    if not all(0 <= number <= 254 for pair in numbers.items() for number in pair):
        raise ValueError(f"labels must be 0 to 254, these are {dict(numbers)}")
    known = {0: 0, **numbers}
    missing = sorted(set(np.unique(labels).tolist()) - known.keys())
    if missing:
        raise ValueError(f"the mask holds {missing}, for which there is no new number (there are {sorted(known)})")
    table = np.zeros(256, np.uint8)
    table[list(known)] = list(known.values())
    return table[labels]


def largest_component(labels: np.ndarray, classes: Collection[int] | None = None, corners: bool = False) -> np.ndarray:
    """Return a mask with, of every class, only its largest connected piece; the rest becomes background.

    Args:
        labels: (X, Y, Z) uint8.
        classes: The classes that this is done to; None for all. Others stay whole.
        corners: Whether voxels that share no more than an edge or a corner are connected too (26 neighbours instead of
            the 6 that share a face).

    Returns:
        (X, Y, Z) uint8. Of two pieces of one size the first along X, then Y, then Z stays.
    """
    kept = labels.copy()
    touching = ndimage.generate_binary_structure(3, 3 if corners else 1)
    for value in np.unique(labels[labels > 0]) if classes is None else sorted({*classes} - {0}):
        pieces, count = ndimage.label(labels == value, touching)
        if count < 2:
            continue
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        kept[(pieces > 0) & (pieces != sizes.argmax())] = 0
    return kept
