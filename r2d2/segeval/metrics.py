"""The overlap scores of a segmentation, all read from one confusion matrix (the paper's section on SegEval).

n_ij are the voxels of class i in the reference that were predicted as j, t_i = sum_j n_ij those of class i in the
reference, p_i = sum_j n_ji those predicted as i, n all of them.

**The empty mask.** A class in neither mask has no score: NaN, left out of every mean, and counted by its absence from
`present`. Of a class in one mask alone Dice, IoU, precision and F-beta are 0, and so is the sensitivity if it is
missed; of a class that the reference lacks there is nothing to be sensitive to: NaN. Specificity is about the voxels of
other classes, and keeps its value. Kappa is NaN where one class fills both masks.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of a confusion matrix, or of each of a stack of them; every array has the stack's axes in front.

    Attributes:
        confusion: (..., C, C) int64.
        dice: (..., C) float64, 2 n_ii / (t_i + p_i).
        iou: (..., C), n_ii / (t_i + p_i - n_ii).
        sensitivity: (..., C), n_ii / t_i: the paper's accuracy of a class.
        specificity: (..., C), of the voxels that are not of class i the part that was not predicted as it; NaN if all
            are of it.
        precision: (..., C), n_ii / p_i.
        pixel_accuracy: (...), the part of all voxels that is right, sum_i n_ii / n.
        mean_accuracy: (...), mean of `sensitivity`.
        mean_iou: (...), mean of `iou`.
        frequency_weighted_iou: (...), mean of `iou` weighted by t_i.
        mean_dice: (...), mean of `dice` over all classes, the background among them.
        foreground_dice: (...), mean of `dice` over the classes from 1; NaN if none of them is in either mask.
        foreground_iou: (...), likewise.
        kappa: (...), Cohen's kappa: (o - e) / (1 - e), with o = `pixel_accuracy` and e = sum_i t_i p_i / n^2, what
            chance would give; NaN where e is 1.
        present: (...), how many of the C classes are in either mask, which `mean_dice` and `mean_iou` are means of.
    """

    confusion: np.ndarray
    dice: np.ndarray
    iou: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray
    precision: np.ndarray
    pixel_accuracy: np.ndarray
    mean_accuracy: np.ndarray
    mean_iou: np.ndarray
    frequency_weighted_iou: np.ndarray
    mean_dice: np.ndarray
    foreground_dice: np.ndarray
    foreground_iou: np.ndarray
    kappa: np.ndarray
    present: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """`sensitivity` by the paper's name."""
        return self.sensitivity

    def f_beta(self, beta: float) -> np.ndarray:
        """(..., C), (1 + beta^2) n_ii / (beta^2 t_i + p_i): above 1, beta weighs what was missed more; 1 is Dice.

        Raises:
            ValueError: `beta` is not above 0.
        """
        if not beta > 0:
            raise ValueError(f"beta {beta}: must be above 0")
        right, reference, predicted = _counts(self.confusion)
        return _divide((1 + beta**2) * right, beta**2 * reference + predicted)


def scores(confusion: np.ndarray) -> Scores:
    """Return all scores of a confusion matrix.

    Args:
        confusion: (..., C, C) counts, rows the reference; of one volume, the sum of many to pool them, or a stack of
            them to score each.

    Returns:
        The scores. [[1, 1], [0, 1]] gives Dice [2/3, 2/3], IoU [1/2, 1/2] and sensitivity [1/2, 1]: of class 0 one of
        two voxels is right, of class 1 the only one. A matrix of zeros gives NaN everywhere.

    Raises:
        ValueError: The matrix is not square.
    """
    confusion = np.asarray(confusion)
    if confusion.ndim < 2 or confusion.shape[-1] != confusion.shape[-2]:
        raise ValueError(f"a confusion matrix is square, this one is {confusion.shape}")
    right, reference, predicted = _counts(confusion)
    total = reference.sum(-1)
    dice = _divide(2.0 * right, reference + predicted)
    iou = _divide(right, reference + predicted - right)
    sensitivity = _divide(right, reference)
    present = reference + predicted > 0
    # Nothing predicted where there was something to find is no precision at all, not an unknown one.
    precision = np.where(present & (predicted == 0), 0.0, _divide(right, predicted))
    others = total[..., None] - reference
    specificity = np.where(present, _divide(others - predicted + right, others), np.nan)
    # Sums of what is wrong: 1 less the part that is right would lose the last digits.
    crossed = reference[..., :, None] * predicted[..., None, :]
    by_chance = _divide(np.where(np.eye(confusion.shape[-1], dtype=bool), 0.0, crossed).sum((-1, -2)), total)
    return Scores(
        confusion=confusion,
        dice=dice,
        iou=iou,
        sensitivity=sensitivity,
        specificity=specificity,
        precision=precision,
        pixel_accuracy=_divide(right.sum(-1), total),
        mean_accuracy=_mean(sensitivity),
        mean_iou=_mean(iou),
        frequency_weighted_iou=_divide((reference * np.nan_to_num(iou)).sum(-1), total),
        mean_dice=_mean(dice),
        foreground_dice=_mean(dice[..., 1:]),
        foreground_iou=_mean(iou[..., 1:]),
        kappa=1.0 - _divide(total - right.sum(-1), by_chance),
        present=np.count_nonzero(present, axis=-1),
    )


def _counts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is right, in the reference, and predicted of each class, (..., C) float64: exact below 2^53 voxels."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return right.astype(np.float64), confusion.sum(-1).astype(np.float64), confusion.sum(-2).astype(np.float64)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, with NaN where the denominator is 0."""
    nan = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=nan, where=np.asarray(denominator) != 0)[()]


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN if nothing is."""
    known = ~np.isnan(values)
    return _divide(np.where(known, values, 0.0).sum(-1), known.sum(-1))
