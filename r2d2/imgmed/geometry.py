"""A volume's grid: its axes, its extent, its spacing; every voxel keeps its place in millimetres.

Orientation is changed by flips and transposes alone and crops are undone by pads, so that nothing is lost.
"""

from collections.abc import Callable, Sequence

import nibabel as nib
import numpy as np

from r2d2.imgmed.intensity import foreground
from r2d2.imgmed.slices import resize_images, resize_labels
from r2d2.imgmed.volume import Volume

Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]

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


def resize(volume: Volume, shape: Sequence[int], labels: bool = False) -> Volume:
    """Return the volume on a grid of another shape over the same extent: the outer faces of the outer voxels stay.

    Args:
        volume: (X, Y, Z) or (X, Y, Z, C).
        shape: Wanted number of voxels along X, Y, Z.
        labels: Whether it is a mask: nearest neighbour, in the mask's own type. Otherwise averaged along an axis that
            shrinks, linear along one that grows, and float32 out.

    Returns:
        The volume; its spacing is the extent divided by the new shape.

    Raises:
        ValueError: A number is below 1.
    """
    x, y, z = (int(size) for size in shape)
    if min(x, y, z) < 1:
        raise ValueError(f"a shape of {(x, y, z)}: every axis needs at least 1 voxel")
    stack = volume.data.reshape(*volume.data.shape[:3], -1)
    # First X and Y of every slice along Z, then Z of every slice along X.
    if labels:
        planes = [_resize_twice(stack[..., c], (x, y, z), resize_labels) for c in range(stack.shape[-1])]
        data = np.stack(planes, axis=-1)
    else:
        data = _resize_twice(stack.astype(np.float32, copy=False), (x, y, z), resize_images)
    scale = np.array(volume.data.shape[:3]) / (x, y, z)
    step = np.diag([*scale, 1.0])
    step[:3, 3] = (scale - 1) / 2
    return Volume(data.reshape(x, y, z, *volume.data.shape[3:]), volume.affine @ step, volume.header)


def resample(volume: Volume, spacing_mm: Sequence[float], labels: bool = False) -> Volume:
    """Return the volume with another spacing, over the same extent.

    Args:
        volume: (X, Y, Z) or (X, Y, Z, C).
        spacing_mm: Wanted distance of neighbouring voxels along X, Y, Z; (3, 0.5, 0.5) belongs to those in that order.
        labels: See `resize`.

    Returns:
        The volume; as it has whole voxels over the same extent, its spacing may differ from the wanted one by less
        than one part in twice its number of voxels. `resize(result, volume.data.shape[:3])` leads back to the grid.

    Raises:
        ValueError: A spacing is not above 0.
    """
    wanted = np.asarray(spacing_mm, dtype=np.float64)
    if wanted.shape != (3,) or not (wanted > 0).all():
        raise ValueError(f"a spacing of {tuple(spacing_mm)} mm: three numbers above 0 are needed")
    extent_mm = np.array(volume.spacing_mm) * volume.data.shape[:3]
    return resize(volume, np.maximum(1, np.rint(extent_mm / wanted)).astype(int).tolist(), labels)


def crop_or_pad(volume: Volume, start: Sequence[int], shape: Sequence[int], fill: float = 0) -> Volume:
    """Return the box of a volume that begins at a voxel and has a shape, filled where it reaches beyond the volume.

    Args:
        volume: (X, Y, Z) or (X, Y, Z, C).
        start: First voxel of the box along X, Y, Z; may be negative.
        shape: Voxels of the box along X, Y, Z.
        fill: Value of the voxels outside the volume.

    Returns:
        A copy in the volume's type. `crop_or_pad(result, [-n for n in start], volume.data.shape[:3])` is its inverse:
        exact wherever the box held the volume.
    """
    begin, size = np.array(start, dtype=int), np.array(shape, dtype=int)
    have = np.array(volume.data.shape[:3])
    low, high = np.clip(begin, 0, have), np.clip(begin + size, 0, have)
    data = np.full((*size, *volume.data.shape[3:]), fill, volume.data.dtype, order="F")
    data[_box(low - begin, high - begin)] = volume.data[_box(low, high)]
    shift = np.eye(4)
    shift[:3, 3] = begin
    return Volume(data, volume.affine @ shift, volume.header)


def foreground_box(data: np.ndarray, margin: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the smallest box with all of a scan's foreground, as (start, shape) for `crop_or_pad`.

    Args:
        data: (X, Y, Z) or (X, Y, Z, C); a voxel counts if it is `foreground` of any channel, e.g. not 0 in magnetic
            resonance; a CT that was not masked is foreground throughout.
        margin: Voxels more on every side; the box ends with the volume.

    Returns:
        The box; the whole volume if all of it is 0.
    """
    channels = data if data.ndim == 4 else data[..., np.newaxis]
    inside = foreground(channels[..., 0])
    for c in range(1, channels.shape[3]):
        inside |= foreground(channels[..., c])
    start, shape = [], []
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = (found[0], found[-1]) if len(found) else (0, inside.shape[axis] - 1)
        first, last = max(0, int(first) - margin), min(inside.shape[axis] - 1, int(last) + margin)
        start.append(first)
        shape.append(last - first + 1)
    return tuple(start), tuple(shape)


def centred(shape: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """Return the start, for `crop_or_pad`, of the box of a shape in the middle of a volume; negative where it pads.

    >>> centred((10, 10, 10), (4, 5, 12))
    (3, 2, -1)
    """
    return tuple((have - want) // 2 for have, want in zip(shape, wanted, strict=True))


def _box(low: np.ndarray, high: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(first, max(first, last)) for first, last in zip(low, high, strict=True))


def _resize_twice(data: np.ndarray, shape: tuple[int, int, int], how: Resize) -> np.ndarray:
    by_z = how(np.moveaxis(data, 2, 0), shape[:2])  # (Z, x, y, ...)
    return how(np.moveaxis(by_z, 0, 2), shape[1:])  # of (x, y, Z, ...)
