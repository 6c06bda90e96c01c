"""Slices of a volume: which ones, as images, and resized so that the centre of an image stays its centre."""

import cv2
import numpy as np

# The axis of a canonical (RAS) volume that each plane's slices are stacked along.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


def choose_slices(num_slices: int, count: int | None, choice: str, foreground: np.ndarray | None = None) -> np.ndarray:
    """Return the indices of the slices to take, sorted, each at most once.

    Args:
        num_slices: How many the volume has.
        count: How many to take; None, or more than there are to choose from, takes all of those.
        choice: `uniform`: evenly over the volume. `central`: the middle ones. `foreground`: evenly over those with a
            label, or over all where none has one.
        foreground: (num_slices,) bool, which slices have a label; only `foreground` asks for it.

    Returns:
        (N,) int64. Six slices, two of them: uniform [1, 4], central [2, 3].

    Raises:
        ValueError: The choice is none of these, or `foreground` has no array to choose by.
    """
    candidates = np.arange(num_slices)
    if choice == "foreground":
        if foreground is None or foreground.shape != (num_slices,):
            raise ValueError(f"choice 'foreground' needs an array of {num_slices} bool that says which have a label")
        if foreground.any():
            candidates = np.flatnonzero(foreground)
    elif choice not in ("uniform", "central"):
        raise ValueError(f"no choice of slices {choice!r}; there are uniform, central, foreground")
    available = len(candidates)
    count = available if count is None else min(count, available)
    if choice == "central":
        start = (available - count) // 2
        return candidates[start : start + count]
    # The middles of `count` equal parts.
    return candidates[(2 * np.arange(count) + 1) * available // (2 * max(count, 1))]


def to_slices(data: np.ndarray, plane: str) -> np.ndarray:
    """Return a canonical volume as a stack of images.

    Args:
        data: (X, Y, Z) or (X, Y, Z, C).
        plane: `sagittal` (N, H, W = X, Y, Z), `coronal` (Y, X, Z) or `axial` (Z, X, Y).

    Returns:
        A view, (N, H, W) or (N, H, W, C).
    """
    return np.moveaxis(data, PLANES[plane], 0)


def from_slices(slices: np.ndarray, plane: str) -> np.ndarray:
    """Return the volume that `to_slices` made these images of, (X, Y, Z) or (X, Y, Z, C), as a view."""
    return np.moveaxis(slices, 0, PLANES[plane])


def resize_images(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return images of another size, averaged along an axis that shrinks, linear along one that grows.

    Args:
        images: (N, H, W, C) float32, any number of channels.
        size: (rows, columns).

    Returns:
        (N, rows, columns, C) float32; the images themselves if they have that size.
    """
    smaller = (min(size[0], images.shape[1]), min(size[1], images.shape[2]))
    return _resize(_resize(images, smaller, cv2.INTER_AREA), size, cv2.INTER_LINEAR)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return masks of another size by nearest neighbour, so that no new label appears.

    Args:
        labels: (N, H, W) uint8.
        size: (rows, columns).

    Returns:
        (N, rows, columns) uint8; the masks themselves if they have that size.
    """
    return _resize(labels[..., np.newaxis], size, cv2.INTER_NEAREST_EXACT)[..., 0]


def resize_probabilities(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return class probabilities of another size, linear along both axes, so that they still sum to 1.

    Args:
        probabilities: (N, H, W, C) float32, C classes.
        size: (rows, columns).

    Returns:
        (N, rows, columns, C) float32; the probabilities themselves if they have that size.
    """
    return _resize(probabilities, size, cv2.INTER_LINEAR)


def _resize(stack: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    n, height, width, channels = stack.shape
    rows, columns = size
    if (height, width) == (rows, columns):
        return stack
    resized = np.empty((n, rows, columns, channels), stack.dtype)
    for i in range(n):
        for c in range(channels):  # one at a time: OpenCV's fast paths end at four channels
            image = np.ascontiguousarray(stack[i, :, :, c])
            resized[i, :, :, c] = cv2.resize(image, (columns, rows), interpolation=interpolation)
    return resized
