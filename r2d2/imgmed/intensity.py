"""Intensities of a scan, made comparable between scanners, each channel on its own."""

import cv2
import numpy as np
import SimpleITK

# Percentiles of this many voxels are as good as those of all.
SAMPLE_VOXELS = 1_000_000
MASKED = 0.1
"""If more than this share of a scan is exactly 0, somebody has set its background to 0."""


def foreground(data: np.ndarray) -> np.ndarray:
    """Return which voxels count: all but the background.

    Voxels of exactly 0 are background where no voxel is negative, or where more than a tenth of them are 0, as in a
    scan that was masked. Elsewhere 0 is an intensity like others, as water's in a CT.

    Args:
        data: One channel, any shape and type.

    Returns:
        bool, in the data's shape and memory order.
    """
    inside = data != 0
    few = data.size - np.count_nonzero(inside) <= MASKED * data.size
    if few and data.size and data.min() < 0:
        inside[...] = True
    return inside


def normalize(data: np.ndarray, how: str, window: tuple[float, float] | None = None) -> np.ndarray:
    """Return the scan with every channel normalized over its `foreground`.

    Args:
        data: (X, Y, Z, C), finite numbers of any type; stays as it is.
        how: `zscore`: mean 0 and standard deviation 1; the background stays 0, and so becomes the mean. `percentile`:
            the 0.5 percentile to 0, the 99.5 percentile to 1, clipped outside; the background is mapped alike, thus to
            0 where intensities are positive. `window`: see `window`. `none`: the data as they are.
        window: What `window` maps to 0 and to 1, e.g. a CT's lung window (-1000, 400) HU.

    Returns:
        (X, Y, Z, C) float32 in the memory order of the data; `none` returns the data themselves. A channel whose
        foreground is of one value, or absent, becomes 0.

    Raises:
        ValueError: `how` is none of these, `window` lacks its window, or the data have no axis of channels.
    """
    if data.ndim != 4:
        raise ValueError(
            f"a scan to normalize is (X, Y, Z, C), this one has {data.ndim} axes; add one: data[..., None]"
        )
    if how == "none":
        return data
    if how == "window":
        if window is None:
            raise ValueError("the normalization 'window' needs a window, e.g. (-1000, 400) HU")
        return apply_window(data, *window)
    scales = {"zscore": _zscore, "percentile": _percentile}
    if how not in scales:
        raise ValueError(f"no normalization {how!r}; there are {', '.join(scales)}, window, none")
    data = data.astype(np.float32, copy=False)
    normalized = np.empty_like(data, subok=False)
    for c in range(data.shape[-1]):
        scales[how](data[..., c], normalized[..., c])
    return normalized


def apply_window(data: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return intensities with `low` mapped to 0, `high` to 1, and clipped outside.

    Args:
        data: Any shape; stays as it is.
        low: In the scan's unit, e.g. -1000 HU.
        high: Above `low`.

    Returns:
        float32, in the data's shape and memory order.

    Raises:
        ValueError: The window is empty.
    """
    if not low < high:
        raise ValueError(f"a window's low ({low:g}) must be < its high ({high:g})")
    result = np.subtract(data, np.float32(low), dtype=np.float32)
    result *= np.float32(1.0 / (high - low))
    return np.clip(result, 0.0, 1.0, out=result)


def clip_percentiles(data: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return intensities clipped to two percentiles, 0 to 100, of their `foreground`; a copy in the data's type.

    Raises:
        ValueError: The percentiles are out of order or of their range.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles ({low:g}, {high:g}) must rise from 0 to 100")
    inside = data[foreground(data)]
    return np.clip(data, *np.percentile(inside, [low, high]).astype(data.dtype)) if inside.size else data.copy()


def correct_bias(data: np.ndarray, spacing_mm: tuple[float, float, float], shrink: int = 4) -> np.ndarray:
    """Return a magnetic resonance scan without its bias field, the slow change of brightness across the image.

    N4 (Tustison et al. 2010), estimated over the voxels above 0 on a grid `shrink` times as coarse, then divided out
    at full resolution.

    Args:
        data: (X, Y, Z), intensities of 0 and more.
        spacing_mm: Distance of neighbouring voxels along X, Y, Z.
        shrink: How many times coarser, per axis; an axis is never made shorter than 8 voxels.

    Returns:
        (X, Y, Z) float32; voxels of 0 stay 0.
    """
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(data.T, dtype=np.float32))
    image.SetSpacing(spacing_mm)
    inside = SimpleITK.Cast(image > 0, SimpleITK.sitkUInt8)
    if not (data > 0).any():
        return data.astype(np.float32)
    factors = [max(1, min(shrink, size // 8)) for size in data.shape]
    corrector = SimpleITK.N4BiasFieldCorrectionImageFilter()
    corrector.Execute(SimpleITK.Shrink(image, factors), SimpleITK.Shrink(inside, factors))
    field = SimpleITK.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)).T
    return (data / np.exp(field)).astype(np.float32)


def match_histogram(data: np.ndarray, reference: np.ndarray, points: int = 100) -> np.ndarray:
    """Return a scan with the intensity histogram of another one, over the `foreground` of both.

    The scan's quantiles are mapped to the reference's, linearly between them (Nyul and Udupa 1999, with two scans).

    Args:
        data: (X, Y, Z), the scan to change.
        reference: Of any shape, the scan to be like.
        points: How many quantiles, the smallest and the largest value among them.

    Returns:
        (X, Y, Z) float32; the background stays 0.

    Raises:
        ValueError: One of the scans is 0 throughout.
    """
    where = foreground(data)
    inside, like = data[where], reference[foreground(reference)]
    if not (inside.size and like.size):
        raise ValueError("a scan that is 0 throughout has no histogram to match")
    shares = np.linspace(0, 1, points)
    matched = np.zeros(data.shape, np.float32)
    matched[where] = np.interp(inside, np.quantile(inside, shares), np.quantile(like, shares))
    return matched


def _zscore(channel: np.ndarray, out: np.ndarray) -> None:
    inside = foreground(channel)
    mean, deviation = (
        value.item()
        for value in cv2.meanStdDev(
            channel.ravel(order="K").reshape(1, -1), mask=inside.ravel(order="K").view(np.uint8).reshape(1, -1)
        )
    )
    # Below this the deviation is the rounding of float32: the channel is constant.
    if deviation <= 1e-6 * abs(mean):
        out[:] = 0
        return
    np.subtract(channel, np.float32(mean), out=out)
    out *= np.float32(1.0 / deviation)
    out *= inside


def _percentile(channel: np.ndarray, out: np.ndarray) -> None:
    values = _sample(channel)
    low, high = np.percentile(values, [0.5, 99.5]).astype(np.float32) if values.size else (0, 0)
    if low == high:
        out[:] = 0
        return
    np.subtract(channel, low, out=out)
    out *= np.float32(1.0) / (high - low)
    np.clip(out, 0.0, 1.0, out=out)


def _sample(channel: np.ndarray) -> np.ndarray:
    """Return about SAMPLE_VOXELS intensities of the foreground, or all; the same in any memory order."""
    inside = foreground(channel)
    count = np.count_nonzero(inside)
    draws = SAMPLE_VOXELS * channel.size // max(1, count)
    if draws >= count:
        return channel.ravel(order="K")[inside.ravel(order="K")]
    # Drawn, since every n-th voxel could all be of a few columns.
    places = np.unravel_index(np.random.default_rng(0).integers(channel.size, size=draws), channel.shape)
    return channel[places][inside[places]]
