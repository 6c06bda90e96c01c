"""Virtual patients' brains: the real ICBM152 anatomy in a shape of its own, as an MR scanner would show it."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from r2d2.data.sources import icbm152
from r2d2.data.synthesis.deform import Array, Grid, flow, random_field, refine, rician, sample, swell

LABELS = {0: "background", 1: "grey matter", 2: "white matter", 3: "other brain"}
MODALITIES = {0: "T1w"}

CONTROL_MM = 5.0
"""Deformations are computed on a grid of this spacing; their finest scale is more than twice as large."""

BRAIN_MIDDLE_MM = np.array([0.0, -18.0, 8.0])
VENTRICLES_MM = np.array([0.0, -14.0, 14.0])
VENTRICLES_REACH_MM = np.array([24.0, 36.0, 20.0])
"""In the template: the middle of the brain and of its lateral ventricles, and how far the growth of these reaches."""


class Settings(NamedTuple):
    """What is drawn for a patient: `_deviation`s of normal draws, `_most` on either side of 0, ranges (from, to)."""

    rotation_deg_deviation: float = 4.0
    translation_mm_deviation: float = 2.0
    log_scale_deviation: float = 0.04
    log_shear_deviation: float = 0.03
    flow_scales_mm: tuple[float, ...] = (26.0, 12.0)
    flow_sizes_mm: tuple[float, ...] = (2.6, 1.7)
    ventricle_growth_most: float = 0.5
    cortex_shift_most: float = 0.25
    cortex_scale_mm: float = 20.0
    sharpness: float = 2.0
    white: tuple[float, float] = (400.0, 700.0)
    grey_over_white: tuple[float, float] = (0.70, 0.80)
    other_over_white: tuple[float, float] = (0.30, 0.50)
    texture: tuple[float, float] = (0.8, 1.2)
    bias_scale_mm: float = 45.0
    bias_log_deviation: float = 0.15
    noise_over_white: tuple[float, float] = (0.03, 0.045)


SETTINGS = Settings()


class Anatomy(NamedTuple):
    """A patient's brain on a grid, N voxels of it being brain.

    Attributes:
        tissues: (3, N) float32, shares of grey, white and other in a voxel; they sum to 1.
        texture: (N,) float32, what the template's T1 shows beyond the mean of its tissues, over white matter's mean.
        brain: (X, Y, Z) bool, the brain's voxels, in whose order the N stand.
    """

    tissues: Array
    texture: Array
    brain: NDArray[np.bool_]

    def labels(self) -> NDArray[np.uint8]:
        """(X, Y, Z) uint8: 0 outside the brain, 1 to 3 the largest of the tissues."""
        labels = np.zeros(self.brain.shape, np.uint8)
        labels[self.brain] = np.argmax(self.tissues, axis=0) + 1
        return labels


def grid(spacing_mm: float | None = None) -> Grid:
    """The template's field of view, 197x233x189 voxels at the default of 1 mm."""
    spacing = spacing_mm or 1.0
    template = icbm152()
    x, y, z = (int(np.ceil(n / spacing)) for n in template.t1.shape)
    origin = template.affine[:3, 3].tolist()
    return Grid((x, y, z), (spacing,) * 3, (origin[0], origin[1], origin[2]))


def generate(rng: np.random.Generator, spacing_mm: float | None = None) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """One patient: a T1-weighted scan, (X, Y, Z) int16, 0 outside the brain, and its labels, (X, Y, Z) uint8."""
    target, control = grid(spacing_mm), grid().around(CONTROL_MM)
    anatomy = warped(deformation(rng, control), control, target, cortex_shift(rng, control))
    white = rng.uniform(*SETTINGS.white)
    means = np.array([rng.uniform(*SETTINGS.grey_over_white), 1.0, rng.uniform(*SETTINGS.other_over_white)])
    signal = mixed(means, anatomy.tissues) + np.float32(rng.uniform(*SETTINGS.texture)) * anatomy.texture
    signal *= bias_field(rng, control, target, anatomy.brain)
    noise = rng.uniform(*SETTINGS.noise_over_white)
    return scan(rician(rng, signal, noise) * white, anatomy.brain), anatomy.labels()


def deformation(rng: np.random.Generator, control: Grid) -> Array:
    """A patient's shape: where in the template each point of the patient's space looks (a pull-back), without folds.

    A smooth flow of several scales, then an affine map, then growth of the ventricles. The drawing depends on the
    control grid alone, so that a patient has the same shape at every spacing of its scan.

    Returns:
        (3, x, y, z) float32, positions in the template in mm for the points of `control`.
    """
    velocity = np.zeros((3, *control.shape), np.float32)
    for scale_mm, size_mm in zip(SETTINGS.flow_scales_mm, SETTINGS.flow_sizes_mm, strict=True):
        velocity += np.float32(size_mm) * random_field(rng, control, scale_mm, components=3)
    points = turned(rng, flow(control.points_mm(), velocity, control))
    growth = rng.uniform(-SETTINGS.ventricle_growth_most, SETTINGS.ventricle_growth_most)
    return swell(points, VENTRICLES_MM, VENTRICLES_REACH_MM, growth)


def turned(rng: np.random.Generator, points_mm: Array) -> Array:
    """Points (3, ...) after a drawn affine map about the brain's middle: rotation, scale, shear, translation."""
    angles = np.deg2rad(rng.normal(0, SETTINGS.rotation_deg_deviation, 3))
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        rotation = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        rotation[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ rotation
    matrix = matrix @ np.diag(np.exp(rng.normal(0, SETTINGS.log_scale_deviation, 3)))
    matrix = matrix @ (np.eye(3) + np.triu(rng.normal(0, SETTINGS.log_shear_deviation, (3, 3)), 1))
    shift = rng.normal(0, SETTINGS.translation_mm_deviation, 3)
    offset = BRAIN_MIDDLE_MM + shift - matrix @ BRAIN_MIDDLE_MM
    # Not `@`: the sums of BLAS depend on the number of threads.
    rows = [sum(np.float32(m) * p for m, p in zip(row, points_mm, strict=True)) for row in matrix]
    return np.stack([row + np.float32(o) for row, o in zip(rows, offset, strict=True)])


def cortex_shift(rng: np.random.Generator, control: Grid) -> Array:
    """(1, x, y, z) float32: how far the boundary of grey and white matter moves into the white (> 0) or the grey."""
    return np.float32(SETTINGS.cortex_shift_most) * np.tanh(random_field(rng, control, SETTINGS.cortex_scale_mm))


def warped(points_mm: Array, control: Grid, target: Grid, shift: Array) -> Anatomy:
    """The template as a patient's deformation shows it on the target grid.

    Args:
        points_mm: (3, x, y, z), see `deformation`.
        control: The grid of `points_mm` and `shift`.
        target: The grid of the scan.
        shift: (1, x, y, z), see `cortex_shift`.
    """
    displacement = refine(np.concatenate([points_mm - control.points_mm(), shift]), control, target)
    points = displacement[:3] + target.points_mm()
    maps, source = _template_maps(max(target.spacing_mm))
    density = sample(maps[:1], source, points)[0]
    brain = density > 0.5
    # Maps are divided by the share of brain in the voxel: the brain's rim is as bright as its inside.
    grey, white, texture = sample(maps[1:], source, points[:, brain]) / density[brain]
    moved = 4 * displacement[3][brain] * grey * white
    grey, white = grey + moved, white - moved
    # An average of 152 people has blurred borders, a person has not; which tissue is the largest stays.
    tissues = np.stack([grey, white, np.clip(1 - grey - white, 0, None)]) ** np.float32(SETTINGS.sharpness)
    return Anatomy(tissues / tissues.sum(axis=0), texture, brain)


def mixed(means: ArrayLike, tissues: Array) -> Array:
    """(N,) float32: the signal of voxels that mix tissues (T, N) of the given means (T,)."""
    return sum(np.float32(mean) * tissue for mean, tissue in zip(np.asarray(means), tissues, strict=True))


def bias_field(rng: np.random.Generator, control: Grid, target: Grid, brain: NDArray[np.bool_]) -> Array:
    """(N,) float32: the smooth gain of a receive coil in the brain's voxels, 1 on (geometric) average."""
    gain = refine(random_field(rng, control, SETTINGS.bias_scale_mm), control, target)[0][brain]
    return np.exp(np.float32(SETTINGS.bias_log_deviation) * (gain - gain.mean()) / gain.std())


def scan(values: Array, brain: NDArray[np.bool_]) -> NDArray[np.int16]:
    """(X, Y, Z) int16: the brain's values as whole numbers of at least 1, and 0 outside."""
    image = np.zeros(brain.shape, np.int16)
    image[brain] = np.clip(np.rint(values), 1, np.iinfo(np.int16).max)
    return image


def brain_and_white(points_mm: Array) -> tuple[NDArray[np.bool_], Array]:
    """Where template positions (3, ...) lie in the brain, and the share of white matter there, both (...)."""
    maps, source = _template_maps(1.0)
    inside, white = sample(maps[[0, 2]], source, points_mm)
    return inside > 0.5, white


@cache
def _template_maps(spacing_mm: float) -> tuple[Array, Grid]:
    # Brain, grey, white and texture, each within the brain, smoothed so that voxels of this size do not alias; cut to
    # the brain and a margin of background, whose edge voxels stand for all that lies further out.
    template = icbm152()
    margin = int(np.ceil(2 * spacing_mm)) + 1
    cut = tuple(
        slice(max(box.start - margin, 0), box.stop + margin)
        for box in ndimage.find_objects(template.brain.astype(np.uint8))[0]
    )
    t1, grey, white, brain = (array[cut] for array in template[:4])
    tissues = np.stack([grey, white, np.clip(1 - grey - white, 0, None)])
    tissues *= brain / tissues.sum(axis=0)
    # Rounded, since the last digits of LAPACK depend on the number of threads, and patients must not.
    means = np.linalg.lstsq(tissues[:, brain].T, t1[brain])[0].round(1)
    texture = (t1 - mixed(means, tissues)) / means[1]
    maps = np.stack([brain.astype(np.float32), *tissues[:2], texture])
    if spacing_mm > 1.0:
        sigma = 0.42 * spacing_mm  # full width at half maximum: one voxel
        maps = ndimage.gaussian_filter(maps, (0, sigma, sigma, sigma), mode="nearest", truncate=3.0)
    x, y, z = t1.shape
    origin = template.affine[:3, 3] + [part.start for part in cut]
    return maps, Grid((x, y, z), (1.0, 1.0, 1.0), (origin[0], origin[1], origin[2]))
