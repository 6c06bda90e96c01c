"""A volume, read from whatever a hospital or a challenge hands out and written whole or not at all."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike

from r2d2.errors import InputError
from r2d2.imgmed.checks import as_text, check_voxels, file_size, input_errors

WRITABLE = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".png", ".tif", ".tiff")
LOSSY = (".jpg", ".jpeg")
AFFINE_TOLERANCE = 1e-3
"""Entries of two affines that differ by less place their voxels alike."""
# ITK and DICOM count to the left and back where a Volume counts to the right and forward; its own inverse.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan or a mask and its place in space.

    Attributes:
        data: (X, Y, Z), or (X, Y, Z, C) with C channels.
        affine: (4, 4) float64, from voxel indices to millimetres, RAS+.
        header: The NIfTI header of the file that it came from, if it was one; `write_volume` takes sform and qform
            codes and units from it.
    """

    data: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels in mm, (3, 0.5, 0.5) belonging to the axes X, Y, Z in that order."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)


def read_volume(path: str | Path, dtype: DTypeLike = np.float32) -> Volume:
    """Read a scan.

    Args:
        path: A NIfTI-1 or NIfTI-2 file (.nii, .nii.gz, or .hdr with its .img) of either byte order; MetaImage (.mha,
            .mhd with its raw file); NRRD (.nrrd, .nhdr with its data file); a picture (.png, .jpg, .tif), which is one
            slice at 1 mm, of the pixels as they are stored (EXIF's orientation is ignored); or the folder of a DICOM
            series.
        dtype: Of the data that comes back. The file's scaling (slope and intercept) is applied before.

    Returns:
        The volume, (X, Y, Z) or (X, Y, Z, C); axes of length 1 behind Z are dropped. The data lie in memory as in
        the file: of the axes X, Y, Z the first is the fastest.

    Raises:
        InputError: The file is missing, truncated or of another format, has not 3 or 4 axes, holds complex or colour
            values, or its affine is not finite or not invertible; or the slices of a DICOM series do not make one
            regular grid.
    """
    return _read(Path(path), dtype)


def read_labels(path: str | Path, numbers: Mapping[int, int] | None = None) -> Volume:
    """Read a mask.

    Args:
        path: As for `read_volume`, but for JPEG, with whole numbers from 0 to 254, stored as any type.
        numbers: Other numbers for some, e.g. {255: 1} for a mask of 0 and 255; those that it names may be above 254.

    Returns:
        The volume, (X, Y, Z) uint8.

    Raises:
        InputError: As for `read_volume`; or the mask has channels, or a value is not a whole number from 0 to 254.
    """
    path = Path(path)
    _refuse_lossy(path)
    mask = _read(path, None)
    if mask.data.ndim != 3:
        raise InputError(f"{path}: a mask has 3 axes, this one is {as_text(mask.data.shape)}")
    return Volume(_to_labels(mask.data, path, numbers or {}), mask.affine, mask.header)


def read_channels(paths: Sequence[str | Path], dtype: DTypeLike = np.float32) -> Volume:
    """Read a scan whose channels lie in files of their own.

    Args:
        paths: As for `read_volume`, a file for each channel, in their order; of one file all channels are taken.
        dtype: Of the data that comes back.

    Returns:
        The scan, (X, Y, Z) or (X, Y, Z, C), on the grid of its first file.

    Raises:
        InputError: As for `read_volume`; or a file of several has channels itself or lies on another grid.
    """
    first, *others = volumes = [read_volume(path, dtype) for path in paths]
    if not others:
        return first
    for path, volume in zip(paths, volumes, strict=True):
        if volume.data.ndim != 3:
            raise InputError(f"{path}: one of {len(paths)} channels, and has {volume.data.shape[3]} itself")
        if volume.data.shape != first.data.shape:
            shapes = as_text(volume.data.shape), as_text(first.data.shape)
            raise InputError(f"{path}: {shapes[0]}, {paths[0]} is {shapes[1]}; channels must have one shape")
        difference = np.abs(volume.affine - first.affine).max()
        if difference > AFFINE_TOLERANCE:
            raise InputError(
                f"{path}: its affine differs from that of {paths[0]} by {difference:.3g}, more than "
                f"{AFFINE_TOLERANCE:g}; channels must lie in the same place"
            )
    # One channel after the other in memory, as in a file with four axes.
    stacked = np.empty((len(volumes), *first.data.shape[::-1]), dtype)
    for plane, volume in zip(stacked, volumes, strict=True):
        plane[:] = volume.data.T
    return Volume(stacked.T, first.affine, first.header)


def volume_name(path: str | Path) -> str | None:
    """Return a volume's name without its suffix, of the folder of a series the folder's; None for other files.

    Of a header and its data (.hdr and .img) the header stands for both.
    """
    path = Path(path)
    if path.is_dir():
        return path.name
    suffixes = [suffix for module in _formats() for suffix in module.SUFFIXES if path.name.lower().endswith(suffix)]
    return None if not suffixes or suffixes == [".img"] else path.name[: -len(suffixes[0])]


def read_geometry(path: str | Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Read a volume's shape, (X, Y, Z) or (X, Y, Z, C), and its (4, 4) float64 affine from the header alone.

    Raises:
        InputError: As for `read_volume`, as far as the header tells.
    """
    path = Path(path)
    with input_errors(path):
        shape, affine = _format(path).geometry(path)
        return shape, affine


def files_of(path: str | Path) -> tuple[Path, ...]:
    """Return all files that a volume consists of: itself, a header and its data, the slices of a series in order.

    Raises:
        InputError: One is missing or no regular file, or the header that names them cannot be read.
    """
    path = Path(path)
    with input_errors(path):
        files: tuple[Path, ...] = _format(path).files(path)
        for file in files:
            file_size(file)
        return files


def check_writable(path: str | Path, shape: tuple[int, ...] = ()) -> None:
    """Raise an InputError if `write_volume` could not write this file: its name, its folder.

    Args:
        path: The file.
        shape: The volume's, if it is known: a picture holds one slice.
    """
    path = Path(path)
    _refuse_lossy(path)
    if not path.name.endswith(WRITABLE):
        raise InputError(f"{path}: the name of a volume must end in {', '.join(WRITABLE[:-1])} or {WRITABLE[-1]}")
    check_folder(path)
    raw = path.with_suffix(".raw")
    if path.suffix == ".mhd" and raw.exists() and not (path.exists() and raw in files_of(path)):
        raise InputError(f"{path}: its voxels would replace {raw}, which belongs to something else; name another file")
    if shape and path.suffix in (".png", ".tif", ".tiff") and shape[2:] not in ((1,), (1, 1), (1, 3)):
        raise InputError(
            f"{path}: a picture holds one slice, grey or RGB, this volume is {as_text(shape)}; write .nii.gz"
        )


def check_folder(path: Path) -> None:
    """Raise an InputError if no file of this path could be written, whatever its name ends in."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: the folder {path.parent} cannot be written")
    if path.is_dir():
        raise InputError(f"{path}: a folder, not a file")


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume: the whole file, or none.

    Args:
        volume: What to write, in the type of its data (bool as uint8). With a header, a NIfTI file has that header's
            place in space: units, sform and qform, exactly if the affine is still the header's own.
        path: A file name ending in .nii, .nii.gz, .mha, .mhd (with a .raw beside it), .nrrd, .png or .tif, in a folder
            that exists. A file of that name is replaced, with the .raw that it names. The affine is kept to the last
            bit of what the format holds: float32 in NIfTI-1, float64 elsewhere; a picture holds none.

    Raises:
        InputError: The name ends otherwise, the format has no such type, the file cannot be written, or a .raw of that
            name belongs to something else.
    """
    path = Path(path)
    check_writable(path, volume.data.shape)
    data = volume.data.view(np.uint8) if volume.data.dtype == bool else volume.data
    check_voxels(data.shape, data.dtype, path)
    with input_errors(path):
        _format(path).write(Volume(data, volume.affine, volume.header), path)


def _read(path: Path, dtype: DTypeLike | None) -> Volume:
    """Read a volume in a type, or in the one that the file's values have after scaling."""
    with input_errors(path), np.errstate(over="ignore", invalid="ignore"):
        volume: Volume = _format(path).read(path, dtype)
        return volume


def _format(path: Path) -> ModuleType:
    """Return the module that reads a path: one of those with `files`, `geometry`, `read` and `write`."""
    if path.is_dir():
        from r2d2.imgmed import dicom

        return dicom
    name = path.name.lower()
    for module in _formats():
        if name.endswith(module.SUFFIXES):
            return module
    file_size(path)
    if name.endswith((".dcm", ".ima")):
        raise InputError(
            f"{path}: one DICOM file; give the folder of its series (a mask: read_contours, read_segments)"
        )
    raise InputError(
        f"{path}: a volume is .nii, .nii.gz, .hdr with .img, .mha, .mhd, .nrrd, .nhdr, .png, .jpg, .tif, or a folder "
        "with a DICOM series"
    )


def _formats() -> tuple[ModuleType, ...]:
    """Return the modules that read a volume from a file, each with its SUFFIXES."""
    from r2d2.imgmed import itk, nifti, pictures  # they make a Volume

    return nifti, itk, pictures


def _refuse_lossy(path: Path) -> None:
    if path.name.lower().endswith(LOSSY):
        raise InputError(
            f"{path}: a mask or a volume is not kept as JPEG, whose compression changes values and invents labels at "
            "every border; use .png or .nii.gz"
        )


def _to_labels(values: np.ndarray, path: Path, numbers: Mapping[int, int]) -> np.ndarray:
    rule = "the labels of a mask must be whole numbers from 0 to 254"
    low, high, most = values.min(), values.max(), max(254, *numbers, 0)
    if not (low >= -0.001 and high <= most + 0.001):  # so written that NaN is refused
        raise InputError(f"{path}: {rule}, it holds {high if low >= 0 else low}")
    labels = values
    if values.dtype.kind == "f":
        # Scaling leaves 0.9999999 of a 1.
        labels = np.rint(values)
        wrong = np.abs(values - labels) > 0.001
        if wrong.any():
            raise InputError(f"{path}: {rule}, it holds {values[wrong][0]}")
    if not numbers:
        return labels.astype(np.uint8)
    table = np.arange(most + 1)
    table[list(numbers)] = list(numbers.values())
    renumbered = table[labels.astype(np.intp)]
    if renumbered.max() > 254:
        raise InputError(f"{path}: {rule}, it holds {renumbered.max()}")
    return renumbered.astype(np.uint8)
