"""Looking at scans: what a page shows of a case of a dataset, and of a scan and the mask that a model made of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r2d2.engine.desk import Ask
from r2d2.engine.uploads import private_folder
from r2d2.errors import InputError, WorkFailed

if TYPE_CHECKING:
    from r2d2.data.cases import Case
    from r2d2.imgmed import Volume

PIXELS = 640
"""Of the longer side of a slice's picture."""
PERCENT = (0.5, 99.5)
"""Of a channel's intensities: what is black, and what is white."""


@dataclass(frozen=True)
class Segmented:
    """A scan and the mask that a model made of it.

    Attributes:
        model: `name/version`.
        shape: Of both, X, Y, Z.
        spacing_mm: Of the axes X, Y, Z.
        volumes_ml: The volume of each foreground class.
        warnings: In what the scan is unlike all that the model was trained on, a line each.
        mask: A .nii.gz on the scan's own grid.
        scan: A channel of the scan for a viewer, a .nii.gz of every `step`-th voxel.
        step: Along X, Y, Z.
        painted: For a viewer likewise, the mask in the classes' colours.
        classes: The foreground classes' values by name.
    """

    model: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    volumes_ml: dict[str, float]
    warnings: tuple[str, ...]
    mask: bytes
    scan: bytes
    step: tuple[int, int, int]
    painted: bytes
    classes: dict[str, int]


def segmenting(model: str, scan: "Volume | Sequence[Path]", channel: int = 0) -> Callable[[Ask], Segmented]:
    """An errand for a desk: the mask of a scan, whose files are gone when it is done.

    Args:
        model: `name/version`.
        scan: Somebody's upload, or the files of a dataset's case.
        channel: Which of the scan's a viewer is to show.
    """

    def work(ask: Ask) -> Segmented:
        from r2d2 import imgmed
        from r2d2.segeval.overlay import rgb

        volume = scan if isinstance(scan, imgmed.Volume) else imgmed.read_channels(scan)
        with private_folder() as folder:
            given, made = folder / "scan.nii", folder / "mask.nii.gz"
            imgmed.write_volume(volume, given)
            try:
                found = ask("predict", model=model, scan=[given], output=made)
            except (InputError, WorkFailed) as error:  # which names a file of ours
                raise type(error)(str(error).replace(f"{given}: ", "").replace(f"{folder}/", "")) from None
            mask, content = imgmed.read_labels(made), made.read_bytes()
        data = volume.data if volume.data.ndim == 3 else volume.data[..., min(channel, volume.data.shape[3] - 1)]
        step = imgmed.steps(mask)
        colours = [rgb(value) for value in range(1, 1 + max(found["classes"].values(), default=0))]
        return Segmented(
            model,
            mask.data.shape,
            mask.spacing_mm,
            found["volumes_ml"],
            tuple(found["warnings"]),
            content,
            imgmed.compact(imgmed.Volume(data, volume.affine), step),
            step,
            imgmed.painted(mask, colours, step),
            found["classes"],
        )

    return work


@dataclass(frozen=True, eq=False)
class Seen:
    """A case as it is looked at: canonical, every channel between its percentiles.

    Attributes:
        images: (X, Y, Z, C) uint8.
        mask: (X, Y, Z) labels.
        spacing_mm: Of X, Y, Z.
        intensities: Of each channel, what is black and what is white.
    """

    images: np.ndarray
    mask: np.ndarray
    spacing_mm: tuple[float, float, float]
    intensities: tuple[tuple[float, float], ...]

    def slices(self, plane: str) -> int:
        """How many slices there are along a plane."""
        from r2d2 import imgmed

        return int(self.mask.shape[imgmed.PLANES[plane]])

    def fullest(self, plane: str) -> int:
        """The slice with the most labelled voxels."""
        from r2d2 import imgmed

        return int(np.count_nonzero(imgmed.to_slices(self.mask, plane), axis=(1, 2)).argmax())

    def picture(self, plane: str, number: int, channel: int = 0, opacity: float = 0.45) -> np.ndarray:
        """A slice as people look at it, its mask over it: (rows, columns, 3) uint8, pixels as wide as high."""
        import cv2

        from r2d2 import imgmed
        from r2d2.segeval.overlay import blend, upright

        image, mask = (
            np.ascontiguousarray(upright(imgmed.to_slices(volume, plane)[number]))
            for volume in (self.images[..., channel], self.mask)
        )
        across_mm, down_mm = np.delete(self.spacing_mm, imgmed.PLANES[plane])
        height_mm, width_mm = image.shape[0] * down_mm, image.shape[1] * across_mm
        scale = PIXELS / max(height_mm, width_mm)
        size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
        return blend(
            cv2.resize(image, size, interpolation=cv2.INTER_LINEAR),
            cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST),
            opacity,
        )


def see(case: "Case") -> Seen:
    """Read a case to be looked at.

    Raises:
        InputError: A file cannot be read, or scan and mask are of two shapes.
    """
    from r2d2 import imgmed

    scan, mask = (imgmed.to_canonical(volume) for volume in case.read())
    if scan.data.shape[:3] != mask.data.shape:
        shapes = ["x".join(map(str, volume.data.shape[:3])) for volume in (scan, mask)]
        raise InputError(f"{case.label}: the scan is {shapes[0]}, the mask {shapes[1]}; `r2d2 data check` says more")
    stack = scan.data if scan.data.ndim == 4 else scan.data[..., np.newaxis]
    images, intensities = np.empty(stack.shape, np.uint8), []
    for c in range(stack.shape[3]):
        channel = np.nan_to_num(stack[..., c], posinf=0.0, neginf=0.0)
        low, high = (float(value) for value in np.percentile(channel, PERCENT))
        images[..., c] = np.clip((channel - low) * (255 / max(high - low, 1e-12)), 0, 255).round()
        intensities.append((low, high))
    return Seen(images, mask.data, scan.spacing_mm, tuple(intensities))
