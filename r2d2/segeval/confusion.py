"""The confusion matrix of two masks, from which all the overlap scores come."""

import cv2
import numpy as np

from r2d2.errors import InputError

# OpenCV counts in float32, which is exact to 2^24; counts of pieces are summed as integers.
PIECE_VOXELS = 1 << 23


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
    """
    left, right = _pair(reference, prediction, num_classes)
    # Volumes come with the first axis fastest: flattened in their own order they need no copy.
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
    left, right = _pair(reference, prediction, num_classes)
    left, right = (np.ascontiguousarray(np.moveaxis(labels, axis, 0)) for labels in (left, right))
    return np.stack([_count(one, other, num_classes) for one, other in zip(left, right, strict=True)])


def _pair(reference: np.ndarray, prediction: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as uint8, once they are found to belong together."""
    if reference.shape != prediction.shape:
        raise InputError(f"reference {_text(reference)}, prediction {_text(prediction)}: the shapes must be the same")
    if not reference.size:
        raise InputError(f"reference and prediction are {_text(reference)}: there are no voxels to compare")
    return _to_uint8(reference, "reference", num_classes), _to_uint8(prediction, "prediction", num_classes)


def _count(left: np.ndarray, right: np.ndarray, num_classes: int) -> np.ndarray:
    left, right = left.reshape(1, -1), right.reshape(1, -1)
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for start in range(0, left.size, PIECE_VOXELS):
        pair = [left[:, start : start + PIECE_VOXELS], right[:, start : start + PIECE_VOXELS]]
        counts = cv2.calcHist(pair, [0, 1], None, [num_classes] * 2, [0, num_classes] * 2)
        matrix += counts.reshape(matrix.shape).astype(np.int64)
    if matrix.sum() != left.size:  # calcHist passes over what is out of range
        raise _outside(left, right, num_classes)
    return matrix


def _to_uint8(labels: np.ndarray, name: str, num_classes: int) -> np.ndarray:
    if labels.dtype == np.uint8:
        return labels
    if labels.dtype.kind not in "biuf" or (labels.dtype.kind == "f" and not np.array_equal(labels, np.rint(labels))):
        raise InputError(f"{name}: labels must be whole numbers, these are {labels.dtype} and some are not")
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise InputError(
            f"{name}: labels {labels.min():g} to {labels.max():g}, with {num_classes} classes they must be "
            f"0 to {num_classes - 1}"
        )
    return labels.astype(np.uint8)


def _outside(left: np.ndarray, right: np.ndarray, num_classes: int) -> InputError:
    return InputError(
        f"reference has labels to {left.max()}, prediction to {right.max()}: with {num_classes} classes they must be "
        f"0 to {num_classes - 1}"
    )


def _text(array: np.ndarray) -> str:
    return "x".join(str(n) for n in array.shape)
