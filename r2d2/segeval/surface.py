"""Distances between the surfaces of two masks, in mm.

A surface is the voxels of a mask that have a face in common with a voxel outside it, or with the edge of the grid (as
in MONAI); a distance goes from the centre of such a voxel to the nearest centre of one on the other surface. Which
score sees what: Reinke et al., "Understanding metric-related pitfalls in image analysis validation", Nature Methods,
2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from r2d2.errors import InputError

CROWDED = 0.1
"""The part of a box's voxels on the surfaces above which a distance transform of the box is quicker than a search."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """The distances between two surfaces; with no surface on one side they are infinite, on both there are none.

    Attributes:
        reference_mm: (n,) float64, from every surface voxel of the reference to the prediction's surface.
        prediction_mm: (m,) float64, the other way.
    """

    reference_mm: np.ndarray
    prediction_mm: np.ndarray

    def hausdorff(self, percentile: float = 100.0) -> float:
        """The Hausdorff distance in mm, or a percentile of it (95: HD95).

        The larger one of the two directions' percentiles (as in MONAI; others take one percentile of both together).
        """
        if self._none:
            return float("nan")
        if self._one_sided:
            return float("inf")
        return float(max(np.percentile(mm, percentile) for mm in (self.reference_mm, self.prediction_mm)))

    def average(self) -> float:
        """The average symmetric surface distance in mm: the mean over the voxels of both surfaces."""
        return float("nan") if self._none else float(np.concatenate([self.reference_mm, self.prediction_mm]).mean())

    def dice(self, tolerance_mm: float) -> float:
        """Surface Dice: the part of both surfaces' voxels that lie within a tolerance of the other (Nikolov 2021)."""
        both = np.concatenate([self.reference_mm, self.prediction_mm])
        return float("nan") if self._none else float(np.mean(both <= tolerance_mm))

    @property
    def _none(self) -> bool:
        return not self.reference_mm.size and not self.prediction_mm.size

    @property
    def _one_sided(self) -> bool:
        return not self.reference_mm.size or not self.prediction_mm.size


def surface_distances(reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Return the distances between the surfaces of two masks.

    Args:
        reference: bool, any number of axes.
        prediction: bool, of the same shape.
        spacing_mm: The voxels' size along each axis.

    Returns:
        Masks [1, 0, 0, 1] and [0, 1, 0, 0] of voxels of 2 mm give 2 and 4 mm from the reference, 2 mm the other way.

    Raises:
        InputError: The shapes differ, or the spacing is not one positive number an axis.
    """
    check(reference, prediction, spacing_mm)
    box = bounding_box(reference | prediction)
    if box is None:
        return SurfaceDistances(np.empty(0), np.empty(0))
    left, right = surface(reference[box]), surface(prediction[box])
    counts = np.count_nonzero(left), np.count_nonzero(right)
    if not all(counts):
        return SurfaceDistances(np.full(counts[0], np.inf), np.full(counts[1], np.inf))
    if sum(counts) > CROWDED * left.size:
        to_left, to_right = (distance_transform_edt(~mask, sampling=spacing_mm) for mask in (left, right))
        return SurfaceDistances(to_right[left], to_left[right])
    return SurfaceDistances(_nearest(left, right, spacing_mm), _nearest(right, left, spacing_mm))


def check(reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> None:
    """Raise an InputError unless two masks and the size of their voxels belong together."""
    if reference.shape != prediction.shape:
        raise InputError(f"reference {reference.shape}, prediction {prediction.shape}: the shapes must be the same")
    spacing = np.asarray(spacing_mm, np.float64)
    if spacing.shape != (reference.ndim,) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise InputError(f"spacing {[*spacing_mm]}: give one positive number of mm for each of {reference.ndim} axes")


def surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask with a face in common with the outside or the edge of the grid, bool."""
    padded = np.pad(mask, 1)
    middle = (slice(1, -1),) * mask.ndim
    inside = padded[middle].copy()
    for axis in range(mask.ndim):
        for beside in (slice(None, -2), slice(2, None)):
            inside &= padded[(*middle[:axis], beside, *middle[axis + 1 :])]
    return mask & ~inside


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box that holds all of a mask, None for an empty one."""
    box = []
    for axis in range(mask.ndim):
        # Axis by axis, each time in what is left: the first pass alone sees the whole.
        rows = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1))
        if not rows.size:
            return None
        box.append(slice(int(rows[0]), int(rows[-1]) + 1))
        mask = np.moveaxis(mask[box[axis]], 0, -1)
    return tuple(box)


def _nearest(of: np.ndarray, to: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distances from the voxels of one surface to the nearest of the other."""
    apart = ~to[of]  # where the surfaces coincide there is nothing to search
    distances = np.zeros(apart.size)
    if apart.any():
        points, others = (np.argwhere(mask) * np.asarray(spacing_mm, np.float64) for mask in (of, to))
        distances[apart] = KDTree(others, balanced_tree=False, compact_nodes=False).query(points[apart])[0]
    return distances
