"""A volume for looking at: a small NIfTI file of every n-th voxel, for viewers in a browser."""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from isal import igzip

from r2d2.imgmed.volume import Volume

MOST_VOXELS = 1 << 24
"""256 x 256 x 256: more than a screen shows of it, and less than a browser takes amiss."""
LEVELS = 32767
RGBA = np.dtype([("R", np.uint8), ("G", np.uint8), ("B", np.uint8), ("A", np.uint8)])


def steps(volume: Volume, most_voxels: int = MOST_VOXELS) -> tuple[int, int, int]:
    """Return how many voxels along X, Y, Z become one so that few enough are left: of the finest axis first."""
    step = np.ones(3, int)
    shape, spacing_mm = np.array(volume.data.shape[:3]), np.array(volume.spacing_mm)
    while np.prod(-(-shape // step)) > most_voxels:
        step[np.where(shape > step, spacing_mm * step, np.inf).argmin()] *= 2
    x, y, z = (int(n) for n in step)
    return x, y, z


def compact(volume: Volume, step: tuple[int, int, int] = (1, 1, 1)) -> bytes:
    """Return (X, Y, Z) as the bytes of a .nii.gz: every `step`-th voxel, never an average, which no label survives.

    Whole numbers from -32768 to 32767 stay what they are; others become 65535 levels with the file's slope and
    intercept, so that a viewer shows the intensities that they were. NaN and infinities become the least value.
    """
    data = volume.data[:: step[0], :: step[1], :: step[2]]
    finite = np.isfinite(data)
    low, high = (float(data[finite].min()), float(data[finite].max())) if finite.any() else (0.0, 0.0)
    data = np.where(finite, data, low)
    if low >= -LEVELS - 1 and high <= LEVELS and np.array_equal(data, np.rint(data)):
        slope, intercept = 1.0, 0.0
    else:
        slope, intercept = (high - low) / (2 * LEVELS) or 1.0, (low + high) / 2
    return _file(np.rint((data - intercept) / slope).astype(np.int16), volume, step, slope, intercept)


def painted(mask: Volume, colours: Sequence[tuple[int, int, int]], step: tuple[int, int, int] = (1, 1, 1)) -> bytes:
    """Return a mask as the bytes of a .nii.gz of colours (RGBA), 0 being clear: every `step`-th voxel.

    Args:
        mask: (X, Y, Z) labels.
        colours: Of the labels from 1, red, green, blue.
        step: As of `steps`.
    """
    table = np.array([(0, 0, 0, 0), *((*colour, 255) for colour in colours)], np.uint8)
    painted = table[mask.data[:: step[0], :: step[1], :: step[2]]]
    return _file(painted.view(RGBA)[..., 0], mask, step)


def _file(
    stored: np.ndarray, volume: Volume, step: tuple[int, int, int], slope: float = 1.0, intercept: float = 0.0
) -> bytes:
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    header.set_data_dtype(stored.dtype)
    image = nib.Nifti1Image(stored, volume.affine @ np.diag([*step, 1.0]), header)
    if stored.dtype != RGBA:
        image.header.set_slope_inter(slope, intercept)
    return igzip.compress(image.to_bytes(), 1, mtime=0)
