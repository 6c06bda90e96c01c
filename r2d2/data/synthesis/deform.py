"""Grids in millimetres, noise, smooth random fields, and deformations that never fold."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

Array = NDArray[np.float32]


class Grid(NamedTuple):
    """Where the voxels lie: voxel (i, j, k) is at `origin_mm + (i, j, k) * spacing_mm`, axes to R, A and S.

    Attributes:
        shape: Voxels along each axis.
        spacing_mm: Distance of neighbours along each axis.
        origin_mm: Position of the centre of voxel (0, 0, 0).
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) float64, from voxel indices to millimetres."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = self.origin_mm
        return affine

    @property
    def axes_mm(self) -> list[Array]:
        """Positions of the voxels along each of the three axes."""
        parts = zip(self.shape, self.spacing_mm, self.origin_mm, strict=True)
        return [(origin + spacing * np.arange(n)).astype(np.float32) for n, spacing, origin in parts]

    def points_mm(self) -> Array:
        """(3, X, Y, Z) float32: the position of every voxel."""
        return np.stack(np.meshgrid(*self.axes_mm, indexing="ij"))

    def around(self, spacing_mm: float) -> "Grid":
        """A coarse grid that covers this one."""
        extents = [(n - 1) * spacing for n, spacing in zip(self.shape, self.spacing_mm, strict=True)]
        x, y, z = (int(np.ceil(extent / spacing_mm)) + 1 for extent in extents)
        return Grid((x, y, z), (spacing_mm,) * 3, self.origin_mm)

    def voxels(self, points_mm: Array) -> Array:
        """Positions (3, ...) in millimetres as fractional voxel indices."""
        tail = (1,) * (points_mm.ndim - 1)
        origin = np.array(self.origin_mm, np.float32).reshape(3, *tail)
        spacing = np.array(self.spacing_mm, np.float32).reshape(3, *tail)
        return (points_mm - origin) / spacing


def random_field(rng: np.random.Generator, grid: Grid, scale_mm: float, components: int = 1) -> Array:
    """Smooth noise: white noise under a Gaussian of standard deviation `scale_mm`, brought to mean 0, deviation 1.

    Returns:
        (components, X, Y, Z) float32.
    """
    noise = rng.standard_normal((components, *grid.shape), dtype=np.float32)
    sigma = [0.0, *(scale_mm / spacing for spacing in grid.spacing_mm)]
    field = ndimage.gaussian_filter(noise, sigma, mode="wrap", truncate=3.0)
    field -= field.mean(axis=(1, 2, 3), keepdims=True)
    return field / field.std(axis=(1, 2, 3), keepdims=True)


def rician(rng: np.random.Generator, signal: Array, noise: float) -> Array:
    """The signal as a magnitude image shows it: normal noise in both of its channels (Gudbjartsson & Patz, 1995)."""
    real, imaginary = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(noise)
    return np.hypot(signal + real, imaginary)


def flow(points_mm: Array, velocity_mm: Array, grid: Grid, squarings: int = 6) -> Array:
    """Where the points of `grid` get to when they follow a constant velocity for one unit of time.

    Scaling and squaring (Arsigny et al., MICCAI 2006): a step so small that it cannot fold, composed with itself
    `squarings` times; compositions of maps without folds have none.

    Args:
        points_mm: (3, X, Y, Z), the points of `grid`.
        velocity_mm: (3, X, Y, Z), mm a unit of time, at the points of `grid`.
        grid: The grid of both.
        squarings: The step is one unit of time over 2 to this power.

    Returns:
        (3, X, Y, Z) float32, the new positions in mm.
    """
    displacement = velocity_mm / 2**squarings
    for _ in range(squarings):
        displacement = displacement + sample(displacement, grid, points_mm + displacement)
    return points_mm + displacement


def swell(points_mm: Array, centre_mm: Array, radii_mm: Array, growth: float) -> Array:
    """Pull-back that makes the tissue about `centre_mm` larger (growth > 0) or smaller (growth < 0).

    A point looks for its tissue nearer to the centre, by the factor `1 - growth * exp(-q / 2)`, where q is the squared
    distance in units of `radii_mm`. Without folds for -2 < growth < 1.

    Args:
        points_mm: (3, ...) positions.
        centre_mm: (3,).
        radii_mm: (3,), how far the change reaches along each axis.
        growth: 0 changes nothing.
    """
    tail = (3,) + (1,) * (points_mm.ndim - 1)
    offset = points_mm - centre_mm.astype(np.float32).reshape(tail)
    q = np.square(offset / radii_mm.astype(np.float32).reshape(tail)).sum(axis=0)
    return points_mm - np.float32(growth) * np.exp(-0.5 * q) * offset


def sample(maps: Array, grid: Grid, points_mm: Array) -> Array:
    """(C, ...) float32: the values of C maps, (C, X, Y, Z) on `grid`, at points (3, ...), linear between voxels."""
    index = grid.voxels(points_mm)
    result = np.empty((len(maps), *points_mm.shape[1:]), np.float32)
    for out, values in zip(result, maps, strict=True):
        ndimage.map_coordinates(values, index, output=out, order=1, mode="nearest", prefilter=False)
    return result


def refine(maps: Array, coarse: Grid, fine: Grid) -> Array:
    """Maps (C, x, y, z) on a coarse grid, linearly interpolated at the voxels of a fine one: (C, X, Y, Z) float32.

    An axis at a time and without BLAS, whose sums depend on the number of threads.
    """
    for axis in range(3):
        index = (fine.axes_mm[axis] - coarse.origin_mm[axis]) / coarse.spacing_mm[axis]
        size, rows = coarse.shape[axis], np.arange(fine.shape[axis])
        left = np.clip(np.floor(index), 0, size - 2).astype(int)
        right_weight = np.clip(index - left, 0, 1).astype(np.float32)
        weights = sparse.csr_array((1 - right_weight, (rows, left)), shape=(len(rows), size))
        weights = weights + sparse.csr_array((right_weight, (rows, left + 1)), shape=(len(rows), size))
        moved = np.moveaxis(maps, axis + 1, 0)
        product = weights @ moved.reshape(size, -1)
        maps = np.moveaxis(product.reshape(-1, *moved.shape[1:]), 0, axis + 1)
    return np.ascontiguousarray(maps)


def jacobian_determinant(points_mm: Array, grid: Grid) -> Array:
    """(X, Y, Z) float32: how much a map enlarges the volume at each voxel; a fold is where it is not positive.

    Args:
        points_mm: (3, X, Y, Z), where the map takes the voxels of `grid`.
        grid: The voxels.
    """
    gradient = np.stack([np.stack(np.gradient(component, *grid.spacing_mm)) for component in points_mm])
    (a, b, c), (d, e, f), (g, h, i) = gradient
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
