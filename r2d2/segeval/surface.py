"""Distances between the surfaces of two masks, in mm.

A surface is the voxels of a mask that have a face in common with a voxel outside it, or with the edge of the grid (as
in MONAI); a distance goes from the centre of such a voxel to the nearest centre of one on the other surface. Which
score sees what: Reinke et al., "Understanding metric-related pitfalls in image analysis validation", Nature Methods,
2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from r2d2.errors import InputError

EXACT = 2048
"""Pixels along a plane up to which OpenCV's squared distances are whole numbers without rounding, in float32."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """The distances between two surfaces; with no surface on one side they are infinite, on both there are none.

    Attributes:
        reference_mm: (n,) float64, in no particular order, from every surface voxel of the reference to the
            prediction's surface.
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
        """Surface Dice: the part of both surfaces' voxels that lie within a tolerance of the other (Nikolov 2021).

        A millionth more than the tolerance is within it: spacings in files are rounded.
        """
        both = np.concatenate([self.reference_mm, self.prediction_mm])
        return float("nan") if self._none else float(np.mean(both <= tolerance_mm * (1 + 1e-6)))

    @property
    def _none(self) -> bool:
        return not self.reference_mm.size and not self.prediction_mm.size

    @property
    def _one_sided(self) -> bool:
        return not self.reference_mm.size or not self.prediction_mm.size


def surface_distances(reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Return the distances between the surfaces of two masks.

    Args:
        reference: Any number of axes; what is not 0 is of the mask.
        prediction: Of the same shape.
        spacing_mm: The voxels' size along each axis.

    Returns:
        Masks [1, 0, 0, 1] and [0, 1, 0, 0] of voxels of 2 mm give 2 and 4 mm from the reference, 2 mm the other way.

    Raises:
        InputError: The shapes differ, or the spacing is not one positive number an axis.
    """
    check(reference, prediction, spacing_mm)
    reference, prediction = reference.astype(bool, copy=False), prediction.astype(bool, copy=False)
    box = bounding_box(reference, prediction)
    if box is None:
        return SurfaceDistances(np.empty(0), np.empty(0))
    left, right = (surface(np.ascontiguousarray(mask[box])) for mask in (reference, prediction))
    counts = np.count_nonzero(left), np.count_nonzero(right)
    if not all(counts):
        return SurfaceDistances(np.full(counts[0], np.inf), np.full(counts[1], np.inf))
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


def bounding_box(*masks: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box that holds all of some masks, bool and of one shape; None if they are empty."""
    ends = [found for mask in masks if (found := _ends(mask))]
    if not ends:
        return None
    return tuple(slice(min(low for low, _ in axis), max(high for _, high in axis)) for axis in zip(*ends, strict=True))


def _ends(mask: np.ndarray) -> list[tuple[int, int]]:
    """The first index and the one after the last along each axis, none for an empty mask."""
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:
        return _ends(mask.T)[::-1]
    found = []
    for _ in range(mask.ndim):
        rows = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1))
        if not rows.size:
            return []
        found.append((int(rows[0]), int(rows[-1]) + 1))
        mask = np.bitwise_or.reduce(mask[rows[0] : rows[-1] + 1], axis=0)  # the shadow along this axis
    return found


def _nearest(of: np.ndarray, to: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distances from the voxels of one surface to the nearest of the other, which has some."""
    axis = _across(spacing_mm, to.shape)
    if axis is None:
        return distance_transform_edt(~to, sampling=spacing_mm)[of]
    # OpenCV knows distances in a plane of square pixels. From there we go to the planes beside it, for as long as one
    # can hold a voxel that is nearer.
    between, within = float(spacing_mm[axis]), float(spacing_mm[axis - 1])
    others = np.ascontiguousarray(np.moveaxis(to, axis, 0))
    squared = np.full(others.shape, np.inf, np.float32)  # in pixels: whole numbers, and so exact
    for plane in np.flatnonzero(others.any(axis=(1, 2))):
        outside = (~others[plane]).view(np.uint8)
        np.rint(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) ** 2, out=squared[plane])
    plane, *pixel = (index.astype(np.intp) for index in np.moveaxis(np.argwhere(np.moveaxis(of, axis, 0)), 1, 0))

    def across(points: np.ndarray, gap: int) -> np.ndarray:
        """Squared distances to the nearest voxel in the plane so far away."""
        pixels = squared[plane[points] + gap, pixel[0][points], pixel[1][points]]
        return pixels.astype(np.float64) * within**2 + (gap * between) ** 2

    found = across(np.arange(len(plane)), 0)
    for gap in range(1, len(squared)):
        far = np.flatnonzero(found > (gap * between) ** 2)
        if not far.size:
            break
        for points, step in ((far[plane[far] >= gap], -gap), (far[plane[far] + gap < len(squared)], gap)):
            found[points] = np.minimum(found[points], across(points, step))
    return np.sqrt(found)


def _across(spacing_mm: Sequence[float], shape: Sequence[int]) -> int | None:
    """The shortest axis across which a volume has square pixels, if there is one."""
    if len(shape) != 3 or max(shape) > EXACT:
        return None
    square = [axis for axis in range(3) if spacing_mm[axis - 1] == spacing_mm[axis - 2]]
    return min(square, key=lambda axis: shape[axis]) if square else None
