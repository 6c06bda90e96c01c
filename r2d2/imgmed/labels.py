"""Masks: other numbers for the classes, and the largest piece of each."""

from collections.abc import Mapping

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


def largest_component(labels: np.ndarray) -> np.ndarray:
    """Return a mask with, of every class, only its largest connected piece; the rest becomes background.

    Args:
        labels: (X, Y, Z) uint8; voxels that share a face are connected.

    Returns:
        (X, Y, Z) uint8. Of two pieces of one size the first along X, then Y, then Z stays.
    """
    kept = np.zeros_like(labels)
    for value in np.unique(labels[labels > 0]):
        pieces, _ = ndimage.label(labels == value)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        kept[pieces == sizes.argmax()] = value
    return kept
