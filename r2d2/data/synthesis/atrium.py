"""Virtual patients' left atria, in the form of the Decathlon's Task02: one MRI of the chest, one label.

There is no real image behind these, as there is behind `brain`: a chest of smooth bodies, each patient's in a shape of
its own. The atrium is as bright as the other chambers and vessels, so that brightness alone does not find it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r2d2.data.synthesis.deform import Array, Grid, flow, random_field, refine, rician

LABELS = {0: "background", 1: "left atrium"}
MODALITIES = {0: "MRI"}

CONTROL_MM = 8.0
DISTANCE_MM = 2.5
"""Spacing of the grids on which the deformation and, at least, the distances from surfaces are computed."""


class Settings(NamedTuple):
    """What is drawn for a patient: ranges (from, to) and `_deviation`s of normal draws."""

    body_ml: tuple[float, float] = (42.0, 95.0)
    log_radii_deviation: float = 0.10
    vein_radius_mm: tuple[float, float] = (5.0, 7.5)
    vein_length_mm: tuple[float, float] = (6.0, 14.0)
    appendage_radius_mm: tuple[float, float] = (7.0, 10.0)
    appendage_length_mm: tuple[float, float] = (10.0, 20.0)
    flow_scales_mm: tuple[float, ...] = (40.0, 20.0)
    flow_sizes_mm: tuple[float, ...] = (6.0, 2.5)
    signal: tuple[float, float] = (300.0, 800.0)
    bias_scale_mm: float = 60.0
    bias_log_deviation: float = 0.15
    noise: tuple[float, float] = (0.05, 0.09)


SETTINGS = Settings()


def grid(spacing_mm: float | None = None) -> Grid:
    """320x320x110 voxels of 1.25x1.25x1.37 mm by default; `spacing_mm` is that of a row, the slices' in proportion."""
    coarser = (spacing_mm or 1.25) / 1.25
    x, y, z = (round(n / coarser) for n in (320, 320, 110))
    spacing = (1.25 * coarser, 1.25 * coarser, 1.37 * coarser)
    origin = [-(n - 1) / 2 * step for n, step in zip((x, y, z), spacing, strict=True)]
    return Grid((x, y, z), spacing, (origin[0], origin[1], origin[2]))


def generate(rng: np.random.Generator, spacing_mm: float | None = None) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """One patient: a chest MRI, (X, Y, Z) int16, and the left atrium, (X, Y, Z) uint8."""
    target, control = grid(spacing_mm), grid().around(CONTROL_MM)
    middle = grid().around(max(DISTANCE_MM, target.spacing_mm[0]))
    velocity = np.zeros((3, *control.shape), np.float32)
    for scale_mm, size_mm in zip(SETTINGS.flow_scales_mm, SETTINGS.flow_sizes_mm, strict=True):
        velocity += np.float32(size_mm) * random_field(rng, control, scale_mm, components=3)
    displacement = flow(control.points_mm(), velocity, control) - control.points_mm()
    points = middle.points_mm() + refine(displacement, control, middle)

    chest, lungs, muscle, pool, atrium = refine(_distances(rng, points), middle, target)
    image = np.zeros(target.shape, np.float32)
    edge_mm = max(target.spacing_mm)
    for distance, mean in ((chest, 0.35), (lungs, 0.08), (muscle, 0.5), (pool, 1.0), (atrium, 1.0)):
        image += np.clip(0.5 - distance / edge_mm, 0, 1) * (np.float32(mean) - image)
    fields = np.concatenate(
        [
            1 + 0.08 * random_field(rng, middle, 4.0),
            np.exp(np.float32(SETTINGS.bias_log_deviation) * random_field(rng, middle, SETTINGS.bias_scale_mm)),
        ]
    )
    image *= refine(fields.prod(axis=0, keepdims=True), middle, target)[0]
    image = rician(rng, image, rng.uniform(*SETTINGS.noise)) * np.float32(rng.uniform(*SETTINGS.signal))
    return np.rint(image).astype(np.int16), (atrium < 0).astype(np.uint8)


def _distances(rng: np.random.Generator, points_mm: Array) -> Array:
    # (5, ...): signed distances in mm from the chest, the lungs, the heart's muscle, other blood, the left atrium.
    atrium, veins = _left_atrium(rng, points_mm)
    others = [
        _ellipsoid(points_mm, centre + rng.normal(0, 3, 3), radii * np.exp(rng.normal(0, 0.08, 3)))
        for centre, radii in (
            (np.array([44.0, 8.0, -8.0]), np.array([20.0, 26.0, 28.0])),  # right atrium
            (np.array([18.0, 44.0, -24.0]), np.array([34.0, 20.0, 30.0])),  # right ventricle
            (np.array([-46.0, 22.0, -28.0]), np.array([22.0, 25.0, 36.0])),  # left ventricle
        )
    ]
    vessels = [
        _capsule(points_mm, start, end, radius * rng.uniform(0.9, 1.1))
        for start, end, radius in (
            ([-24.0, -62.0, -200.0], [-20.0, -62.0, 200.0], 11.0),  # descending aorta
            ([8.0, 24.0, 0.0], [14.0, 20.0, 200.0], 14.0),  # ascending aorta
            ([-18.0, 40.0, 4.0], [-14.0, 6.0, 60.0], 12.0),  # pulmonary artery
            ([46.0, 6.0, 0.0], [42.0, 2.0, 200.0], 9.0),  # superior vena cava
        )
    ]
    # Other blood keeps a wall's width from the atrium; the veins beyond their stumps run on from it.
    pool = np.minimum(np.maximum(np.minimum.reduce([*others, *vessels]), 2.5 - atrium), veins)
    chest = _ellipsoid(points_mm, [0.0, 0.0, 0.0], [175.0, 118.0, 900.0])
    lungs = np.minimum(
        _ellipsoid(points_mm, [-95.0, -5.0, 10.0], [58.0, 88.0, 150.0]),
        _ellipsoid(points_mm, [95.0, -5.0, 10.0], [58.0, 88.0, 150.0]),
    )
    muscle = np.minimum.reduce(
        [atrium - 3.0, *(other - 7.0 for other in others), *(vessel - 2.0 for vessel in vessels)]
    )
    return np.stack([chest, lungs, muscle, pool, atrium])


def _left_atrium(rng: np.random.Generator, points_mm: Array) -> tuple[Array, Array]:
    # Signed distances from the atrium with its appendage and the stumps of its veins, and from the veins themselves.
    centre = np.array([-4.0, -24.0, 6.0]) + rng.normal(0, 3, 3)
    radii = np.array([30.0, 21.0, 25.0]) * np.exp(rng.normal(0, SETTINGS.log_radii_deviation, 3))
    volume_ml = np.exp(rng.uniform(*np.log(SETTINGS.body_ml)))
    radii *= np.cbrt(volume_ml * 1000 / (4 / 3 * np.pi * radii.prod()))
    body = _ellipsoid(points_mm, centre, radii)

    tip = centre + radii * [-0.75, 0.75, 0.3]
    end = tip + rng.uniform(*SETTINGS.appendage_length_mm) * np.array([-0.5, 0.8, 0.2])
    atrium = np.minimum(body, _capsule(points_mm, tip, end, rng.uniform(*SETTINGS.appendage_radius_mm)))

    veins = []
    for side, height in ((-1, 1), (-1, -1), (1, 1), (1, -1)):
        direction = np.array([side, -0.35, 0.35 * height]) + rng.normal(0, 0.1, 3)
        direction /= np.linalg.norm(direction)
        root = centre + radii * [0.65 * side, -0.3, 0.5 * height]
        veins.append(_capsule(points_mm, root, root + 120 * direction, rng.uniform(*SETTINGS.vein_radius_mm)))
        stump = np.maximum(veins[-1], body - np.float32(rng.uniform(*SETTINGS.vein_length_mm)))
        atrium = np.minimum(atrium, stump)
    return atrium, np.minimum.reduce(veins)


def _ellipsoid(points_mm: Array, centre_mm: ArrayLike, radii_mm: ArrayLike) -> Array:
    # The signed distance to first order: exact on the surface, negative inside.
    centre, radii = (np.asarray(value, np.float32) for value in (centre_mm, radii_mm))
    offset = [(p - c) / r for p, c, r in zip(points_mm, centre, radii, strict=True)]
    level = np.sqrt(sum(part**2 for part in offset))
    slope = np.sqrt(sum((part / r) ** 2 for part, r in zip(offset, radii, strict=True)))
    return level * (level - 1) / np.maximum(slope, 1e-6)


def _capsule(points_mm: Array, start_mm: ArrayLike, end_mm: ArrayLike, radius_mm: float) -> Array:
    # The signed distance from a cylinder with round ends.
    start, end = (np.asarray(value, np.float32) for value in (start_mm, end_mm))
    axis = end - start
    offset = [p - s for p, s in zip(points_mm, start, strict=True)]
    along = np.clip(sum(o * a for o, a in zip(offset, axis, strict=True)) / np.square(axis).sum(), 0, 1)
    squared = sum((o - along * a) ** 2 for o, a in zip(offset, axis, strict=True))
    return np.sqrt(squared) - np.float32(radius_mm)
