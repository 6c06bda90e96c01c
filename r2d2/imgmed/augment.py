"""Augmentation: what is done to an image is drawn first, as a record, and then applied to image and mask together.

A draw depends on (seed, epoch, index) alone, so that an image is augmented alike on any number of workers, and the
record can be applied again, here by OpenCV or to whole batches by `r2d2.training.augment`.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

BIAS_CELLS = 1
"""The bias field is one patch of cubic splines over the whole image: as smooth as a coil's sensitivity."""


@dataclass(frozen=True)
class Ranges:
    """What parameters are drawn from, uniformly; by default everything is off. See `TABLE_1`.

    Attributes:
        rotation_degrees: Least and largest angle in mm, counter-clockwise as displayed, about the image's centre.
        zoom: Least and largest factor, above 1 enlarging, about the image's centre.
        shift: Least and largest, a fraction of the size, along one axis drawn at random, towards larger indices.
        flip: Axes, of `rows` (upside down) and `columns` (left to right), each reversed with probability 1/2.
        elastic: Largest displacement of a control point of the elastic deformation, a fraction of the size.
        elastic_cells: Cells of the grid of control points along each axis.
        gamma: Least and largest exponent of the intensities, which are scaled to [0, 1] for it and back.
        bias: Largest logarithm of the bias field, a smooth factor of the intensities above the image's least:
            0.3 for a field within [0.74, 1.35].
        noise: Least and largest standard deviation of Gaussian noise, in the image's own intensities.
        probability: That an image is augmented at all.

    Raises:
        ValueError: A range has no order, or is out of the bounds that these values have.
    """

    rotation_degrees: tuple[float, float] = (0.0, 0.0)
    zoom: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)
    flip: tuple[str, ...] = ()
    elastic: float = 0.0
    elastic_cells: int = 4
    gamma: tuple[float, float] = (1.0, 1.0)
    bias: float = 0.0
    noise: tuple[float, float] = (0.0, 0.0)
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rotation_degrees", "zoom", "shift", "gamma", "noise"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}: its least value ({low}) must be <= its largest ({high})")
        if not (self.zoom[0] > 0 and self.gamma[0] > 0 and self.noise[0] >= 0 and self.bias >= 0):
            raise ValueError("zoom and gamma must be > 0, noise and bias >= 0")
        if not set(self.flip) <= {"rows", "columns"}:
            raise ValueError(f"flip {self.flip}: its axes are rows and columns")
        # Below 0.48 of a cell no image folds over itself (Choi and Lee 2000, for cubic splines).
        if not 0 <= self.elastic < 0.48 / self.elastic_cells:
            raise ValueError(f"elastic ({self.elastic}) must be >= 0 and < 0.48 / elastic_cells ({self.elastic_cells})")


TABLE_1 = Ranges(rotation_degrees=(-45.0, 45.0), zoom=(0.8, 1.2), shift=(0.0, 0.05))
"""Table 1 of Guedria et al. 2020; its translation of up to 25.6 pixels is 5 % of its 512."""


@dataclass(frozen=True, eq=False)
class Draw:
    """What is done to one image.

    Attributes:
        key: (seed, epoch, index), which the noise is drawn with.
        size: (rows, columns).
        matrix: (2, 3) float32, from (column, row, 1) of a pixel's centre in the result to (column, row) in the image.
        elastic: (2, cells + 3, cells + 3) float32, the control points' displacements along columns and along rows, in
            pixels; the matrix is applied to the displaced place.
        gamma: The exponent.
        bias: (BIAS_CELLS + 3, BIAS_CELLS + 3) float32, the control points of the bias field's logarithm.
        noise: The noise's standard deviation.
    """

    key: tuple[int, int, int]
    size: tuple[int, int]
    matrix: np.ndarray
    elastic: np.ndarray
    gamma: float
    bias: np.ndarray
    noise: float


def draw(
    ranges: Ranges,
    seed: int,
    epoch: int,
    index: int,
    size: tuple[int, int],
    pixel_mm: tuple[float, float] = (1.0, 1.0),
) -> Draw:
    """Return what is done to image number `index` in an epoch.

    Every parameter is drawn, used or not: to switch one operation on changes no other.

    Args:
        ranges: What to draw from.
        seed: 0 or more.
        epoch: 0 or more.
        index: The image's number in its dataset, 0 or more.
        size: (rows, columns) of the image.
        pixel_mm: Size of its pixels, rows then columns; an image whose pixels are not square is turned as the body is,
            which in pixels looks sheared.
    """
    rows, columns = size
    generator = _generator((seed, epoch, index), 1)
    chance, angle, zoom, shift, axis, upside_down, left_right, gamma, noise = generator.random(9)
    elastic = generator.uniform(-1.0, 1.0, (2, ranges.elastic_cells + 3, ranges.elastic_cells + 3))
    bias = generator.uniform(-1.0, 1.0, (BIAS_CELLS + 3, BIAS_CELLS + 3))
    if chance >= ranges.probability:
        ranges = Ranges()

    radians, factor = np.deg2rad(_within(ranges.rotation_degrees, angle)), _within(ranges.zoom, zoom)
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]]) / factor
    down_mm, across_mm = pixel_mm
    turn *= [[1.0, down_mm / across_mm], [across_mm / down_mm, 1.0]]  # to mm, turned, and back
    along = np.array([axis < 0.5, axis >= 0.5])
    moved = along * _within(ranges.shift, shift) * [columns, rows]
    reverse = [
        -1.0 if "columns" in ranges.flip and left_right < 0.5 else 1.0,
        -1.0 if "rows" in ranges.flip and upside_down < 0.5 else 1.0,
    ]
    centre = np.array([(columns - 1) / 2, (rows - 1) / 2])
    linear = np.diag(reverse) @ turn
    return Draw(
        key=(seed, epoch, index),
        size=size,
        matrix=np.column_stack([linear, centre - linear @ (centre + moved)]).astype(np.float32),
        elastic=(elastic * ranges.elastic * np.array([columns, rows])[:, None, None]).astype(np.float32),
        gamma=_within(ranges.gamma, gamma),
        bias=(bias * ranges.bias).astype(np.float32),
        noise=_within(ranges.noise, noise),
    )


def apply(draw: Draw, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask after a draw; what comes from outside the image is 0.

    Args:
        draw: Of the image's size.
        image: (H, W, C) float32; stays as it is. Linear between pixels.
        mask: (H, W) uint8 or uint16; stays as it is. Nearest neighbour, so that no new label appears.

    Returns:
        The image (H, W, C) float32 and the mask (H, W) of its type. Where the draw does nothing, the same bits.
    """
    across, down = _places(draw)
    # One channel at a time: OpenCV's borders end at four.
    channels = [
        cv2.remap(np.ascontiguousarray(image[..., c]), across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        for c in range(image.shape[-1])
    ]
    image = np.stack(channels, axis=-1)
    mask = cv2.remap(mask, np.rint(across), np.rint(down), cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    if draw.gamma != 1.0 or draw.bias.any():
        low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
        span = np.where(high > low, high - low, np.float32(1.0))
        field = np.exp(smooth_field(draw.bias, draw.size))[..., None]
        image = low + span * ((image - low) / span) ** np.float32(draw.gamma) * field
    if draw.noise:
        image = image + noise(draw, image.shape[-1])
    return image, mask


def noise(draw: Draw, channels: int) -> np.ndarray:
    """The noise of a draw, (H, W, channels) float32, the same each time."""
    normal = _generator(draw.key, 2).standard_normal((*draw.size, channels), dtype=np.float32)
    return normal * np.float32(draw.noise)


def smooth_field(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The smooth field of control points (..., k, k) over the pixels, (..., rows, columns) float32.

    It stays between the points' least and largest value.
    """
    cells = points.shape[-1] - 3
    return splines(size[0], cells) @ points @ splines(size[1], cells).T


@lru_cache(maxsize=16)
def splines(length: int, cells: int) -> np.ndarray:
    """The weight of each control point at each pixel of an axis, (length, cells + 3) float32; rows sum to 1."""
    from scipy.interpolate import BSpline  # which takes half a second, and drivers draw nothing

    pixels = (np.arange(length) + 0.5) * cells / length
    weights = BSpline.design_matrix(pixels, np.arange(-3, cells + 4, dtype=np.float64), 3)
    return weights.toarray().astype(np.float32)


def _places(draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the result comes from: columns and rows in the image, (H, W) float32 each."""
    rows, columns = draw.size
    x, y = np.arange(columns, dtype=np.float32)[None, :], np.arange(rows, dtype=np.float32)[:, None]
    if draw.elastic.any():
        displaced = smooth_field(draw.elastic, draw.size)
        x, y = x + displaced[0], y + displaced[1]
    (a, b, c), (d, e, f) = draw.matrix
    return a * x + (b * y + c), d * x + (e * y + f)


def _within(bounds: tuple[float, float], part: float) -> float:
    low, high = bounds
    return float(low + (high - low) * part)


def _generator(key: tuple[int, int, int], stream: int) -> np.random.Generator:
    """A stream of its own for each key and purpose; stream 0 of (seed, epoch) is the order of the feed's images."""
    seed, epoch, index = key
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, index, stream]))
