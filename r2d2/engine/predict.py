"""Predict: a scan in, a mask on the scan's own grid out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r2d2.engine.evaluate import load_predictor
from r2d2.errors import InputError


@dataclass(frozen=True)
class Prediction:
    """A mask that was written: where, its shape, and the volume of each foreground class in ml."""

    mask: Path
    shape: tuple[int, ...]
    volumes_ml: dict[str, float]


def predict(model: str, scan: Sequence[Path], output: Path) -> Prediction:
    """Segment a scan.

    Args:
        model: See `engine.models.resolve`.
        scan: A file or folder that `imgmed.read_volume` takes, or a file for each channel.
        output: The mask's file, .nii.gz or another that `imgmed.write_volume` takes, with the scan's grid, affine and
            orientation.

    Raises:
        InputError: No such model or scan, or the mask cannot be written.
    """
    from r2d2 import imgmed

    volume = imgmed.read_channels(scan)
    imgmed.check_writable(output, volume.data.shape[:3])  # before the network is loaded, not after its work
    files = [file for path in scan for file in imgmed.files_of(path)]
    if output.exists() and any(output.samefile(file) for file in files):
        raise InputError(f"{output}: the scan itself, which the mask would replace; name another file")
    saved, predictor = load_predictor(model)
    mask = predictor.volume(volume, scan[0])
    imgmed.write_volume(mask, output)
    volumes_ml = {
        name: float((mask.data == value).sum() * mask.voxel_ml)
        for value, name in sorted(saved.labels.items())
        if value > 0
    }
    return Prediction(output, mask.data.shape, volumes_ml)
