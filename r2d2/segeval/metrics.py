"""The scores of a segmentation, all read from one confusion matrix (the paper's section on SegEval)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Scores:
    """Overlap scores; a class in neither mask is NaN and left out of every mean.

    Attributes:
        dice: (C,) float64, 2 n_ii / (t_i + p_i), with t_i voxels of class i in the reference, p_i in the prediction.
        iou: (C,) float64, n_ii / (t_i + p_i - n_ii).
        accuracy: (C,) float64, n_ii / t_i; NaN for a class that the reference lacks.
        pixel_accuracy: The part of all voxels that is right.
        mean_accuracy: Mean of `accuracy`.
        mean_iou: Mean of `iou`.
        frequency_weighted_iou: Mean of `iou` weighted by t_i.
        mean_dice: Mean of `dice` over all classes, the background among them.
        foreground_dice: Mean of `dice` over the classes from 1; NaN if none of them is in either mask.
        present: How many of the C classes are in either mask: those that `mean_dice` and `mean_iou` are means of.
    """

    dice: np.ndarray
    iou: np.ndarray
    accuracy: np.ndarray
    pixel_accuracy: float
    mean_accuracy: float
    mean_iou: float
    frequency_weighted_iou: float
    mean_dice: float
    foreground_dice: float
    present: int


def scores(confusion: np.ndarray) -> Scores:
    """Return all scores of a confusion matrix.

    Args:
        confusion: (C, C) counts, rows the reference; of one volume, or the sum of many to pool them.

    Returns:
        The scores. [[1, 1], [0, 1]] gives Dice [2/3, 2/3], IoU [1/2, 1/2] and accuracy [1/2, 1]: of class 0 one of
        two voxels is right, of class 1 the only one. A matrix of zeros gives NaN everywhere.

    Raises:
        ValueError: The matrix is not square.
    """
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"a confusion matrix is square, this one is {confusion.shape}")
    right = np.diag(confusion).astype(np.float64)
    reference = confusion.sum(axis=1).astype(np.float64)
    predicted = confusion.sum(axis=0).astype(np.float64)
    dice = _divide(2.0 * right, reference + predicted)
    iou = _divide(right, reference + predicted - right)
    accuracy = _divide(right, reference)
    total = reference.sum()
    return Scores(
        dice=dice,
        iou=iou,
        accuracy=accuracy,
        pixel_accuracy=float(_divide(right.sum(), total)),
        mean_accuracy=_mean(accuracy),
        mean_iou=_mean(iou),
        frequency_weighted_iou=float(_divide((reference * np.nan_to_num(iou)).sum(), total)),
        mean_dice=_mean(dice),
        foreground_dice=_mean(dice[1:]),
        present=int(np.count_nonzero(reference + predicted)),
    )


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, with NaN where the denominator is 0."""
    nan = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=nan, where=np.asarray(denominator) != 0)


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
