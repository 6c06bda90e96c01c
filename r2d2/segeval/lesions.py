"""Lesion by lesion: which of a reference's lesions a prediction found, and what it found that is none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import generate_binary_structure, label

from r2d2.errors import InputError
from r2d2.segeval.surface import bounding_box

OVERLAP = 0.1
"""The intersection over union from which two components are the same lesion, as is usual for detection in volumes."""
QUANTILES = 4


@dataclass(frozen=True, eq=False)
class Lesions:
    """The lesions of one class in one scan.

    Attributes:
        reference_voxels: (n,) int64, the size of each lesion of the reference.
        detected: (n,) bool, whether a component of the prediction was matched to it.
        false_voxels: (m,) int64, the size of each component of the prediction that was matched to none.
    """

    reference_voxels: np.ndarray
    detected: np.ndarray
    false_voxels: np.ndarray


def match_lesions(reference: np.ndarray, prediction: np.ndarray, overlap: float = OVERLAP) -> Lesions:
    """Match the connected components of two masks one to one.

    Voxels that share a face, an edge or a corner are of one component. Pairs are matched in the order of their
    intersection over union, the largest first, as long as it is at least `overlap`.

    Args:
        reference: Any number of axes; what is not 0 is of the mask.
        prediction: Of the same shape.
        overlap: The least intersection over union, above 0 and at most 1.

    Raises:
        InputError: The shapes differ, or `overlap` is out of range.
    """
    if reference.shape != prediction.shape:
        raise InputError(f"reference {reference.shape}, prediction {prediction.shape}: the shapes must be the same")
    if not 0 < overlap <= 1:
        raise InputError(f"overlap {overlap}: give a number above 0 and at most 1")
    reference, prediction = reference.astype(bool, copy=False), prediction.astype(bool, copy=False)
    box = bounding_box(reference, prediction)
    if box is None:
        return Lesions(np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.int64))
    touching = generate_binary_structure(reference.ndim, reference.ndim)
    (left, lefts), (right, rights) = (label(mask[box], touching) for mask in (reference, prediction))
    left_voxels, right_voxels = (
        np.bincount(one.ravel(), minlength=n + 1) for one, n in ((left, lefts), (right, rights))
    )
    both = (left > 0) & (right > 0)
    pairs, common = np.unique(np.stack([left[both], right[both]]), axis=1, return_counts=True)
    union = left_voxels[pairs[0]] + right_voxels[pairs[1]] - common
    partner, taken = np.zeros(lefts + 1, np.int64), np.zeros(rights + 1, bool)
    for number in np.argsort(-common / union, kind="stable"):
        one, other = pairs[:, number]
        if common[number] >= overlap * union[number] and not partner[one] and not taken[other]:
            partner[one], taken[other] = other, True
    return Lesions(left_voxels[1:], partner[1:] > 0, right_voxels[1:][~taken[1:]])


@dataclass(frozen=True)
class SizeClass:
    """Lesions of like size in a dataset.

    Attributes:
        from_ml: The smallest that belongs here.
        to_ml: The size from which on they belong to the next, infinite for the last.
        lesions: How many the references have.
        detected: How many of these were detected.
        false_per_scan: Components of predictions of this size that are none of the reference's, a scan.
    """

    from_ml: float
    to_ml: float
    lesions: int
    detected: int
    false_per_scan: float


def by_size(scans: Sequence[Lesions], voxel_ml: Sequence[float], classes: int = QUANTILES) -> list[SizeClass]:
    """Group the lesions of many scans by the quantiles of the references' lesions' volumes.

    Args:
        scans: One class' lesions in each scan.
        voxel_ml: The volume of each scan's voxels.
        classes: How many groups; fewer come back where many lesions are of one size.

    Returns:
        The groups, smallest lesions first, empty if the references have none. What is smaller than all lesions of the
        references counts with the smallest.
    """
    if not scans or not any(scan.reference_voxels.size for scan in scans):
        return []
    volumes = np.concatenate([scan.reference_voxels * ml for scan, ml in zip(scans, voxel_ml, strict=True)])
    false = np.concatenate([scan.false_voxels * ml for scan, ml in zip(scans, voxel_ml, strict=True)])
    detected = np.concatenate([scan.detected for scan in scans])
    edges = np.unique(np.quantile(volumes, np.linspace(0, 1, classes + 1)[:-1], method="higher"))
    of, of_false = (np.maximum(np.searchsorted(edges, mine, "right") - 1, 0) for mine in (volumes, false))
    return [
        SizeClass(
            float(edges[number]),
            float(edges[number + 1]) if number + 1 < len(edges) else float("inf"),
            int(np.sum(of == number)),
            int(np.sum(detected[of == number])),
            float(np.sum(of_false == number) / len(scans)),
        )
        for number in range(len(edges))
    ]
