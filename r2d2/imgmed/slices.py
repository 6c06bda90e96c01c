"""Slices of a volume: which ones, as images, and resized so that the centre of an image stays its centre."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import DTypeLike

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


def from_slices(
    slices: np.ndarray, plane: str, chosen: np.ndarray | None = None, num_slices: int | None = None
) -> np.ndarray:
    """Return the volume that `to_slices` made these images of: its exact inverse.

    Args:
        slices: (N, H, W) or (N, H, W, C).
        plane: The plane that they were taken in.
        chosen: (N,) where each of them lies, from `choose_slices`; None if they are all that the volume has.
        num_slices: How many the volume has, with `chosen`.

    Returns:
        (X, Y, Z) or (X, Y, Z, C): a view, or with `chosen` a copy in which the slices that were not chosen are 0.
    """
    if chosen is not None:
        every = np.zeros((num_slices or int(chosen[-1]) + 1, *slices.shape[1:]), slices.dtype)
        every[chosen] = slices
        slices = every
    return np.moveaxis(slices, 0, PLANES[plane])


@dataclass(frozen=True)
class Frame:
    """How a scan's slices are laid into images of one size, and predictions back: cut, resized, centred.

    Attributes:
        native: (rows, columns) of the scan's own slices.
        box: (first row, first column, rows, columns) that are cut out of them.
        scaled: (rows, columns) that the box is resized to.
        size: (rows, columns) of the images; the scaled box lies in their middle, cropped or padded with 0.
    """

    native: tuple[int, int]
    box: tuple[int, int, int, int]
    scaled: tuple[int, int]
    size: tuple[int, int]


def frame(
    native: tuple[int, int],
    size: tuple[int, int],
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    pixel_mm: float | None = None,
    box: tuple[int, int, int, int] | None = None,
) -> Frame:
    """Return the frame of a scan's slices.

    Args:
        native: (rows, columns) of the slices.
        size: (rows, columns) of the images.
        spacing_mm: Distance of rows and of columns in the slices.
        pixel_mm: Size of the images' pixels; None stretches the slices to the images, whatever their size in mm.
        box: (first row, first column, rows, columns) to cut out first; None takes all.
    """
    box = box or (0, 0, *native)
    if pixel_mm is None:
        return Frame(native, box, size, size)
    rows, columns = (max(1, round(box[2 + axis] * spacing_mm[axis] / pixel_mm)) for axis in (0, 1))
    return Frame(native, box, (rows, columns), size)


def shown(by: Frame) -> tuple[slice, slice]:
    """Return the rows and the columns of a scan's own slices whose centres lie in the images."""
    rows, columns = (_shown(by, axis) for axis in (0, 1))
    return rows, columns


def _shown(by: Frame, axis: int) -> slice:
    start, have, scaled = by.box[axis], by.box[2 + axis], by.scaled[axis]
    inner, _ = _overlap(scaled, by.size[axis])
    places = (np.arange(have) + 0.5) * scaled / have  # in pixels of the resized box
    first, end = np.searchsorted(places, [inner.start, inner.stop])
    return slice(start + int(first), start + int(end))


def frame_images(images: np.ndarray, by: Frame, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return (N, *native, C) float32 slices as (N, *size, C) images of a floating-point type."""
    return _centre(resize_images(_cut(images, by), by.scaled, dtype), by.size)


def frame_labels(labels: np.ndarray, by: Frame) -> np.ndarray:
    """Return (N, *native) uint8 masks as (N, *size) ones."""
    return _centre(resize_labels(_cut(labels, by), by.scaled), by.size)


def unframe_probabilities(probabilities: np.ndarray, by: Frame) -> np.ndarray:
    """Return (N, *size, C) float32 class probabilities on the scan's own slices, (N, *native, C).

    They are interpolated linearly; class 0, the background, is certain where the images did not reach.
    """
    if by.scaled == by.size and by.box == (0, 0, *by.native):
        return resize_probabilities(probabilities, by.native)
    scaled = resize_probabilities(_centre(probabilities, by.scaled, fill=None), by.box[2:])
    whole = _background((len(scaled), *by.native, scaled.shape[-1]))
    row, column, rows, columns = by.box
    whole[:, row : row + rows, column : column + columns] = scaled
    return whole


def unframe_labels(probabilities: np.ndarray, by: Frame) -> np.ndarray:
    """Return the most probable class on the scan's own slices, (N, *native) uint8.

    It is `unframe_probabilities(...).argmax(axis=-1)`, of two equal ones the first, a slice and a class at a time: in
    a third of the time, and without the room for all probabilities.

    Args:
        probabilities: (N, *size, C) float32.
        by: The frame.
    """
    count, classes = len(probabilities), probabilities.shape[-1]
    labels = np.zeros((count, *by.native), np.uint8)
    row, column, rows, columns = by.box
    for number in range(count):
        inside = labels[number, row : row + rows, column : column + columns]
        best: np.ndarray | None = None
        for c in range(classes):
            plane = np.ascontiguousarray(probabilities[number : number + 1, :, :, c])
            if by.scaled != by.size:
                plane = _centre(plane, by.scaled, fill=float(c == 0))
            resized = plane[0]
            if by.scaled != (rows, columns):
                resized = cv2.resize(resized, (columns, rows), interpolation=cv2.INTER_LINEAR)
            if best is None:
                best = resized
                continue
            inside[resized > best] = c
            np.maximum(best, resized, out=best)
    return labels


def _cut(stack: np.ndarray, by: Frame) -> np.ndarray:
    row, column, rows, columns = by.box
    return stack[:, row : row + rows, column : column + columns]


def _background(shape: tuple[int, ...]) -> np.ndarray:
    certain = np.zeros(shape, np.float32)
    certain[..., 0] = 1.0
    return certain


def _centre(stack: np.ndarray, size: tuple[int, int], fill: float | None = 0) -> np.ndarray:
    """Crop or pad (N, H, W, ...) about its middle, with a value or, for None, class probabilities of the background.

    The same with the sizes exchanged leads back.
    """
    have = stack.shape[1:3]
    if have == size:
        return stack
    shape = (len(stack), *size, *stack.shape[3:])
    result = _background(shape) if fill is None else np.full(shape, fill, stack.dtype)
    source, target = zip(*(_overlap(old, new) for old, new in zip(have, size, strict=True)), strict=True)
    result[:, target[0], target[1]] = stack[:, source[0], source[1]]
    return result


def _overlap(old: int, new: int) -> tuple[slice, slice]:
    """Where the middle of `old` pixels lies among `new` ones: (slice of the old, slice of the new)."""
    start, length = abs(old - new) // 2, min(old, new)
    inner, whole = slice(start, start + length), slice(0, length)
    return (inner, whole) if old > new else (whole, inner)


def resize_images(images: np.ndarray, size: tuple[int, int], dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return images of another size, averaged along an axis that shrinks, linear along one that grows.

    Args:
        images: (N, H, W, C) float32, any number of channels.
        size: (rows, columns).
        dtype: A floating-point type; what has been computed in float32 is rounded to it.

    Returns:
        (N, rows, columns, C) of that type; the images themselves if they have that size and type.
    """
    smaller = (min(size[0], images.shape[1]), min(size[1], images.shape[2]))
    if smaller != size:
        return _resize(_resize(images, smaller, cv2.INTER_AREA), size, cv2.INTER_LINEAR, dtype)
    return _resize(images, size, cv2.INTER_AREA, dtype)


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


def _resize(stack: np.ndarray, size: tuple[int, int], interpolation: int, dtype: DTypeLike | None = None) -> np.ndarray:
    n, height, width, channels = stack.shape
    rows, columns = size
    if (height, width) == (rows, columns):
        return stack.astype(dtype or stack.dtype, copy=False)
    resized = np.empty((n, rows, columns, channels), dtype or stack.dtype)
    for i in range(n):
        for c in range(channels):  # one at a time: OpenCV's fast paths end at four channels
            image = np.ascontiguousarray(stack[i, :, :, c])
            resized[i, :, :, c] = cv2.resize(image, (columns, rows), interpolation=interpolation)
    return resized
