"""How a case's slices lie in the images that the network sees, and what of its mask they do not show."""

import numpy as np

from r2d2 import config, imgmed
from r2d2.errors import InputError


def chosen_channels(channels: tuple[str, ...], preprocess: config.Preprocess) -> tuple[str, ...]:
    """Return the names of the channels that `preprocess.channels` chooses.

    Raises:
        InputError: The scans have fewer.
    """
    wanted = range(len(channels)) if preprocess.channels is None else preprocess.channels
    if max(wanted) >= len(channels):
        raise InputError(
            f"preprocess.channels {list(wanted)}: the scans have {len(channels)} channels, "
            f"counted from 0: {', '.join(channels)}"
        )
    return tuple(channels[number] for number in wanted)


def with_channels(volume: imgmed.Volume, preprocess: config.Preprocess) -> np.ndarray:
    """Return a scan's data, (X, Y, Z, C), of the chosen channels alone."""
    data = volume.data if volume.data.ndim == 4 else volume.data[..., None]
    return data if preprocess.channels is None else data[..., list(preprocess.channels)]


def frame_of(volume: imgmed.Volume, preprocess: config.Preprocess) -> imgmed.Frame:
    """Return how the slices of a canonical scan lie in the images."""
    row, column = (axis for axis in range(3) if axis != imgmed.PLANES[preprocess.plane])
    box = None
    if preprocess.crop == "foreground":
        start, length = imgmed.foreground_box(with_channels(volume, preprocess))
        box = (start[row], start[column], length[row], length[column])
    shape, spacing_mm = volume.data.shape, volume.spacing_mm
    return imgmed.frame(
        (shape[row], shape[column]),
        preprocess.image_size,
        (spacing_mm[row], spacing_mm[column]),
        preprocess.pixel_mm,
        box,
    )


def canonical_masks(image: imgmed.Volume, mask: imgmed.Volume, preprocess: config.Preprocess) -> np.ndarray:
    """Return a mask, (slices, rows, columns), on the canonical axes of its scan.

    The two share one grid; affines that differ by rounding could still be turned in two ways.
    """
    return imgmed.to_slices(imgmed.to_canonical(imgmed.Volume(mask.data, image.affine)).data, preprocess.plane)


def left_out(masks: np.ndarray, by: imgmed.Frame) -> float:
    """Return the share of labelled voxels, 0 to 1, whose centres lie beyond the images.

    Args:
        masks: (slices, rows, columns) uint8.
        by: Their frame.
    """
    labelled = np.count_nonzero(masks)
    rows, columns = imgmed.shown(by)
    return 1 - np.count_nonzero(masks[:, rows, columns]) / labelled if labelled else 0.0
