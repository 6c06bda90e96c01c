"""The confusion matrix of two masks, from which all the overlap scores come."""

import cv2
import numpy as np

from r2d2.errors import InputError

PIECE, ROW = 1 << 19, 1 << 13
"""Voxels that are counted together, and those that are passed over together where they are background."""


def confusion_matrix(reference: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how many voxels of each class were predicted as each class.

    Args:
        reference: The true labels, any shape, whole numbers below `num_classes`; uint8 is fastest.
        prediction: The predicted labels, of the same shape.
        num_classes: The number of classes with the background, 1 to 255.

    Returns:
        (C, C) int64; rows are the reference, columns the prediction. Reference [0, 0, 1] and prediction [0, 1, 1] give
        [[1, 1], [0, 1]]. Matrices of parts of a volume, of volumes, of workers add up.

    Raises:
        InputError: The shapes differ, there are no voxels, labels are not whole numbers, or one is outside the classes.
        ValueError: `num_classes` is out of range.
    """
    left, right = _checked(reference, prediction, num_classes)
    # Volumes come with the first axis fastest: in their own order they need no copy.
    if left.flags.f_contiguous:
        left, right = left.T, right.T
    return _count(left, right, num_classes)


def confusion_matrices(reference: np.ndarray, prediction: np.ndarray, num_classes: int, axis: int = 2) -> np.ndarray:
    """Return the confusion matrix of each slice; see `confusion_matrix`.

    Args:
        reference: The true labels.
        prediction: The predicted labels, of the same shape.
        num_classes: The number of classes with the background, 1 to 255.
        axis: The axis across which the slices are.

    Returns:
        (slices, C, C) int64; their sum is the matrix of the whole.
    """
    left, right = _checked(reference, prediction, num_classes)
    _check_range(left, "reference", num_classes)
    _check_range(right, "prediction", num_classes)
    left, right = _sliced(left, axis), _sliced(right, axis)
    return np.stack([_count(one, other, num_classes) for one, other in zip(left, right, strict=True)])


def _checked(reference: np.ndarray, prediction: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """Both as uint8, once they are found to belong together; `_count` looks whether they are of the classes."""
    if not 1 <= num_classes <= 255:
        raise ValueError(f"num_classes {num_classes}: must be 1 to 255")
    if reference.shape != prediction.shape:
        raise InputError(f"reference {_text(reference)}, prediction {_text(prediction)}: the shapes must be the same")
    if not reference.size:
        raise InputError(f"reference and prediction are {_text(reference)}: there are no voxels to compare")
    found = []
    for labels, name in ((reference, "reference"), (prediction, "prediction")):
        kind = labels.dtype.kind
        if kind not in "biuf" or (kind == "f" and not (np.isfinite(labels) & (labels == np.rint(labels))).all()):
            raise InputError(f"{name}: labels must be whole numbers, these are {labels.dtype} and some are not")
        if labels.dtype != np.uint8:
            _check_range(labels, name, num_classes)
        found.append(labels.astype(np.uint8, copy=False))
    return found


def _check_range(labels: np.ndarray, name: str, num_classes: int) -> None:
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise InputError(
            f"{name}: labels {int(labels.min())} to {int(labels.max())}, with {num_classes} classes they must be "
            f"0 to {num_classes - 1}"
        )


def _sliced(labels: np.ndarray, axis: int) -> np.ndarray:
    if axis == labels.ndim - 1 and labels.flags.c_contiguous:
        return cv2.transpose(labels.reshape(-1, labels.shape[-1]))  # which numpy takes five times as long for
    return np.moveaxis(labels, axis, 0)


def _count(left: np.ndarray, right: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each pair of labels is there, (C, C); piece by piece, so that each stays in the processor's cache."""
    left, right = (np.ascontiguousarray(labels).reshape(-1) for labels in (left, right))
    codes = num_classes**2
    buffer = np.empty(min(PIECE, left.size), np.uint8 if codes <= 256 else np.uint16)
    counts = np.zeros(codes, np.int64)
    for start in range(0, left.size, PIECE):
        one, other = left[start : start + PIECE], right[start : start + PIECE]
        if one.max() >= num_classes or other.max() >= num_classes:
            _check_range(left, "reference", num_classes)
            _check_range(right, "prediction", num_classes)
        pairs = buffer[: one.size]
        np.multiply(one, num_classes, out=pairs, casting="unsafe", dtype=pairs.dtype)
        np.add(pairs, other, out=pairs)
        # Most of a volume is background: what holds nothing else need not be looked at voxel by voxel.
        rows = pairs.reshape(-1, ROW) if pairs.size % ROW == 0 else pairs[None]
        busy = rows[rows.any(axis=1)]
        if busy.size:  # OpenCV counts in float32, exact to 2^24, and shares out rows among threads
            counts += cv2.calcHist([busy], [0], None, [codes], [0, codes]).ravel().astype(np.int64)
        counts[0] += pairs.size - busy.size
    return counts.reshape(num_classes, num_classes)


def _text(array: np.ndarray) -> str:
    return "x".join(str(n) for n in array.shape)
