"""Orientation: every scan to the same axes (RAS) and back, by flips and transposes alone, so that nothing is lost."""

import nibabel as nib
import numpy as np

from r2d2.imgmed.volume import Volume

CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])


def to_canonical(volume: Volume) -> Volume:
    """Return the volume with axes nearest to right, anterior, superior (RAS).

    Args:
        volume: (X, Y, Z) or (X, Y, Z, C); channels stay last.

    Returns:
        A view of the data with the affine that belongs to it; every voxel keeps its place in millimetres.
    """
    orientation = nib.io_orientation(volume.affine)
    data = nib.apply_orientation(volume.data, orientation)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(orientation, volume.data.shape[:3])
    return Volume(data, affine, volume.header)


def from_canonical(data: np.ndarray, like: Volume) -> Volume:
    """Return an array of the canonical grid on a scan's own axes: the exact inverse of `to_canonical`.

    Args:
        data: (X, Y, Z) or (X, Y, Z, C), on the grid of `to_canonical(like)`; any number of channels.
        like: The scan as it was read.

    Returns:
        A view of the data, with the affine and the header of the scan.

    Raises:
        ValueError: The data are not on that grid.
    """
    back = nib.orientations.ornt_transform(CANONICAL, nib.io_orientation(like.affine))
    data = nib.apply_orientation(data, back)
    if data.shape[:3] != like.data.shape[:3]:
        raise ValueError(f"the data are {data.shape[:3]} on the scan's axes, the scan is {like.data.shape[:3]}")
    return Volume(data, like.affine, like.header)
