"""Intensities of a scan, made comparable between scanners, each channel on its own."""

import cv2
import numpy as np

# Percentiles of this many voxels are as good as those of all.
SAMPLE_VOXELS = 1_000_000


def normalize(data: np.ndarray, how: str) -> np.ndarray:
    """Return the scan with every channel normalized over its voxels that are not 0.

    Args:
        data: (X, Y, Z, C) float32, finite; stays as it is.
        how: `zscore`: mean 0 and standard deviation 1; voxels of 0, the background, stay 0, and so become the mean.
            `percentile`: the 0.5 percentile to 0, the 99.5 percentile to 1, clipped outside; voxels of 0 are mapped
            alike, thus to 0 where intensities are positive. `none`: the data as they are.

    Returns:
        (X, Y, Z, C) float32 in the memory order of the data; `none` returns the data themselves. A channel whose
        voxels other than 0 are all equal, or absent, becomes 0.

    Raises:
        ValueError: `how` is none of these.
    """
    if how == "none":
        return data
    channels = {"zscore": _zscore, "percentile": _percentile}
    if how not in channels:
        raise ValueError(f"no normalization {how!r}; there are {', '.join(channels)}, none")
    normalized = np.empty_like(data, subok=False)
    for c in range(data.shape[-1]):
        normalized[..., c] = channels[how](data[..., c])
    return normalized


def _zscore(channel: np.ndarray) -> np.ndarray:
    inside = channel != 0
    mean, deviation = (
        value.item()
        for value in cv2.meanStdDev(
            channel.ravel(order="K").reshape(1, -1), mask=inside.ravel(order="K").view(np.uint8).reshape(1, -1)
        )
    )
    # Below this the deviation is the rounding of float32: the channel is constant.
    if deviation <= 1e-6 * abs(mean):
        return np.zeros_like(channel)
    result = channel - np.float32(mean)
    result *= np.float32(1.0 / deviation)
    result *= inside
    return result


def _percentile(channel: np.ndarray) -> np.ndarray:
    values = channel.ravel(order="K")
    values = values[values != 0]
    values = values[:: 1 + values.size // SAMPLE_VOXELS]
    if values.size == 0:
        return np.zeros_like(channel)
    low, high = np.percentile(values, [0.5, 99.5]).astype(np.float32)
    if low == high:
        return np.zeros_like(channel)
    result = channel - low
    result *= np.float32(1.0) / (high - low)
    return np.clip(result, 0.0, 1.0, out=result)
