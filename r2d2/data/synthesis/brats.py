"""Virtual patients with a glioma, in the form of the Decathlon's Task01: four modalities, three parts of a tumour."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from r2d2.data.synthesis import brain
from r2d2.data.synthesis.deform import Array, Grid, random_field, refine, rician, sample, swell

LABELS = {0: "background", 1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"}
MODALITIES = {0: "FLAIR", 1: "T1w", 2: "T1gd", 3: "T2w"}


class Settings(NamedTuple):
    """What is drawn for a patient: ranges (from, to). Shape and receive coil are drawn as for `brain`."""

    signal: tuple[float, float] = (300.0, 900.0)
    signal_spread: float = 0.06
    noise: tuple[float, float] = (0.04, 0.07)
    edema_radius_mm: tuple[float, float] = (14.0, 36.0)
    core_share: tuple[float, float] = (0.45, 0.75)
    rim_share: tuple[float, float] = (0.12, 0.4)
    irregularity: float = 0.22
    mass_effect: tuple[float, float] = (0.1, 0.45)


SETTINGS = Settings()

TISSUE_MEANS = np.array(
    # grey, white, other (mostly cerebrospinal fluid), edema, non-enhancing, enhancing
    [
        [0.66, 0.54, 0.18, 1.00, 0.62, 0.86],  # FLAIR
        [0.74, 1.00, 0.34, 0.66, 0.46, 0.64],  # T1w
        [0.72, 0.94, 0.34, 0.64, 0.44, 1.30],  # T1gd
        [0.60, 0.44, 1.00, 0.86, 0.94, 0.70],  # T2w
    ]
)
TEXTURE = np.array([-0.2, 1.0, 0.9, -0.6])
"""How each modality shows the T1's texture: fluid is dark in T1 and bright in T2."""

EDGE_MM = 1.0
"""Half of the width over which one part of a tumour becomes the next."""


class Tumour(NamedTuple):
    """Three distances from the tumour's middle at each voxel of the brain, (N,) float32, 1 on the surface of each.

    Attributes:
        edema: Less than 1 within the swollen tissue, which the tumour itself always is a part of.
        core: Less than 1 within the tumour itself.
        rim: Less than 1 in its non-enhancing middle.
        radius_mm: Of the edema, if it were a ball.
    """

    edema: Array
    core: Array
    rim: Array
    radius_mm: float


def grid(spacing_mm: float | None = None) -> Grid:
    """240x240x155 voxels at the default of 1 mm about the template's middle; fewer in proportion when coarser."""
    spacing = spacing_mm or 1.0
    x, y, z = (round(n / spacing) for n in (240, 240, 155))
    origin = [m - (n - 1) / 2 * spacing for m, n in zip((0.0, -16.0, 5.0), (x, y, z), strict=True)]
    return Grid((x, y, z), (spacing,) * 3, (origin[0], origin[1], origin[2]))


def generate(rng: np.random.Generator, spacing_mm: float | None = None) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """One patient: FLAIR, T1w, T1gd and T2w, (X, Y, Z, 4) int16, 0 outside the brain, and labels, (X, Y, Z) uint8."""
    target, control = grid(spacing_mm), grid().around(brain.CONTROL_MM)
    radius_mm = float(np.exp(rng.uniform(*np.log(SETTINGS.edema_radius_mm))))
    core_share = rng.uniform(*SETTINGS.core_share)
    shape = brain.deformation(rng, control)
    shift = brain.cortex_shift(rng, control)
    middle = _middle(rng, shape, control, radius_mm)

    # The tumour pushes its surroundings outwards: every point near it shows what lay nearer to its middle.
    reach = np.full(3, max(1.2 * core_share * radius_mm, 2 * brain.CONTROL_MM))
    pushed = swell(control.points_mm(), middle, reach, rng.uniform(*SETTINGS.mass_effect))
    anatomy = brain.warped(pushed + sample(shape - control.points_mm(), control, pushed), control, target, shift)

    tumour = _tumour(rng, anatomy, control, target, middle, radius_mm, core_share)
    labels = np.zeros(target.shape, np.uint8)
    labels[anatomy.brain] = _labels(tumour)
    shares = _shares(anatomy.tissues, tumour)
    healthy = shares[:3].sum(axis=0)

    image = np.zeros((*target.shape, 4), np.int16)
    spread = rng.uniform(1 - SETTINGS.signal_spread, 1 + SETTINGS.signal_spread, TISSUE_MEANS.shape)
    for channel, (means, texture) in enumerate(zip(TISSUE_MEANS * spread, TEXTURE, strict=True)):
        uneven = 1 + 0.06 * refine(random_field(rng, control, 6.0), control, target)[0][anatomy.brain]
        signal = brain.mixed(means, shares) + np.float32(texture) * healthy * anatomy.texture
        signal *= np.where(healthy < 1, uneven, 1) * brain.bias_field(rng, control, target, anatomy.brain)
        signal = rician(rng, signal, rng.uniform(*SETTINGS.noise)) * np.float32(rng.uniform(*SETTINGS.signal))
        image[..., channel] = brain.scan(signal, anatomy.brain)
    return image, labels


def _middle(rng: np.random.Generator, shape: Array, control: Grid, radius_mm: float) -> Array:
    # A point of white matter, in the patient's space, that lies deep enough for a tumour of this size.
    inside, white = brain.brain_and_white(shape)
    deep = inside & (white > 0.7) & (ndimage.distance_transform_edt(inside) * brain.CONTROL_MM > 8.0 + 0.3 * radius_mm)
    candidates = np.argwhere(deep)
    return control.points_mm()[:, *candidates[rng.integers(len(candidates))]]


def _tumour(
    rng: np.random.Generator,
    anatomy: brain.Anatomy,
    control: Grid,
    target: Grid,
    middle: Array,
    radius_mm: float,
    core_share: float,
) -> Tumour:
    radii = np.exp(rng.normal(0, 0.18, 3))
    radii *= radius_mm / np.cbrt(radii.prod())
    scale = max(0.35 * radius_mm, 5.0)
    noise = np.concatenate([random_field(rng, control, scale, components=2), random_field(rng, control, 5.0)])
    edema_noise, core_noise, rim_noise = refine(noise, control, target)[:, anatomy.brain]
    offset = [
        (axis - m) / r
        for axis, m, r in zip(np.meshgrid(*target.axes_mm, indexing="ij", sparse=True), middle, radii, strict=True)
    ]
    distance = np.sqrt(sum(part**2 for part in offset))[anatomy.brain].astype(np.float32)
    grey, _, other = anatomy.tissues
    core = (distance + np.float32(SETTINGS.irregularity * core_share) * core_noise) / np.float32(core_share)
    # Edema follows the white matter: the cortex slows it, and fluid has none.
    edema = distance + np.float32(SETTINGS.irregularity) * edema_noise + 0.3 * grey + 0.8 * other
    rim = core + np.float32(rng.uniform(*SETTINGS.rim_share)) + 0.15 * rim_noise
    return Tumour(np.minimum(edema, core), core, np.maximum(rim, core), radius_mm)


def _shares(tissues: Array, tumour: Tumour) -> Array:
    # (6, N), in the order of TISSUE_MEANS: each part of the tumour takes its share from what was there before it.
    shares = np.concatenate([tissues, np.zeros((3, len(tumour.edema)), np.float32)])
    for part, level in ((3, tumour.edema), (5, tumour.core), (4, tumour.rim)):
        share = np.clip(0.5 + (1 - level) * np.float32(tumour.radius_mm / (2 * EDGE_MM)), 0, 1)
        shares *= 1 - share
        shares[part] += share
    return shares


def _labels(tumour: Tumour) -> NDArray[np.uint8]:
    parts = [tumour.rim < 1, tumour.core < 1, tumour.edema < 1]
    return np.select(parts, [2, 3, 1], 0).astype(np.uint8)
