"""NIfTI volumes: read, checked before anything is allocated, and written whole or not at all."""

import contextlib
import io
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike

from r2d2.errors import InputError
from r2d2.files import whole_file

GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot shrink bytes by more than this, so a file's size bounds what it can hold.
GZIP_MAX_RATIO = 1032
HEADER_BYTES = 540
# nibabel logs what it mends in a header, and what it raises too; people get our one line instead.
SILENT = logging.Logger("r2d2.imgmed", level=logging.CRITICAL + 1)
# Where the voxels lie in space, in the fields of a NIfTI header; everything else there may speak of the patient.
PLACE_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"),
)


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan or a mask and its place in space.

    Attributes:
        data: (X, Y, Z), or (X, Y, Z, C) with C channels.
        affine: (4, 4) float64, from voxel indices to millimetres, RAS+.
        header: The NIfTI header of the file that it came from; `write_volume` takes sform and qform codes and units
            from it.
    """

    data: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels in mm, (3, 0.5, 0.5) belonging to the axes X, Y, Z in that order."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def read_volume(path: str | Path, dtype: DTypeLike = np.float32) -> Volume:
    """Read a scan.

    Args:
        path: A NIfTI-1 or NIfTI-2 file, .nii or .nii.gz, of either byte order.
        dtype: Of the data that comes back. The file's scaling (slope and intercept) is applied before.

    Returns:
        The volume, (X, Y, Z) or (X, Y, Z, C); a fourth axis of length 1 is dropped. The data lie in memory as in the
        file, the first axis fastest.

    Raises:
        InputError: The file is missing, truncated, no NIfTI, has not 3 or 4 axes, holds complex or colour values,
            or its affine is not finite or not invertible.
    """
    return decode_volume(read_bytes(path), path, dtype)


def read_labels(path: str | Path) -> Volume:
    """Read a mask.

    Args:
        path: A NIfTI file, as for `read_volume`, with whole numbers from 0 to 254, stored as any type.

    Returns:
        The volume, (X, Y, Z) uint8.

    Raises:
        InputError: As for `read_volume`; or the mask has channels, or a value is not a whole number from 0 to 254.
    """
    return decode_labels(read_bytes(path), path)


def read_geometry(path: str | Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Read a volume's shape, (X, Y, Z) or (X, Y, Z, C), and its (4, 4) float64 affine from the file's header alone.

    Raises:
        InputError: As for `read_volume`, as far as the header tells.
    """
    path = Path(path)
    with _input_errors(path):
        size = _size(path)
        with path.open("rb") as file:
            start = file.read(len(GZIP_MAGIC))
            file.seek(0)
            zipped = start == GZIP_MAGIC
            head = igzip.GzipFile(fileobj=file).read(HEADER_BYTES) if zipped else file.read(HEADER_BYTES)
        header = _header(head, path)
        _check_size(header, size, zipped, path)
        return _shape(header, path), _affine(header, path)


def read_bytes(path: str | Path) -> bytes:
    """Read a file as it is, for `decode_volume` and `decode_labels`.

    Raises:
        InputError: There is no such file, it is a folder, or it cannot be read.
    """
    path = Path(path)
    with _input_errors(path):
        _size(path)
        return path.read_bytes()


def decode_volume(content: bytes, path: str | Path, dtype: DTypeLike = np.float32) -> Volume:
    """Return the scan in a NIfTI file's bytes; `path` is what errors call it. See `read_volume`."""
    path = Path(path)
    with _input_errors(path), np.errstate(over="ignore", invalid="ignore"):
        voxels, header, shape = _decode(content, path)
        data = np.asarray(voxels, dtype=dtype).reshape(shape, order="F")
        return Volume(data, _affine(header, path), header)


def decode_labels(content: bytes, path: str | Path) -> Volume:
    """Return the mask in a NIfTI file's bytes; `path` is what errors call it. See `read_labels`."""
    path = Path(path)
    with _input_errors(path):
        voxels, header, shape = _decode(content, path)
        if len(shape) != 3:
            raise InputError(f"{path}: a mask has 3 axes, this one is {_text(shape)}")
        values = np.asarray(voxels).reshape(shape, order="F")
        return Volume(_to_labels(values, path), _affine(header, path), header)


def check_writable(path: str | Path) -> None:
    """Raise an InputError if `write_volume` could not write this file: its name, its folder."""
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: the name of a volume must end in .nii or .nii.gz")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: the folder {path.parent} cannot be written")
    if path.is_dir():
        raise InputError(f"{path}: a folder, not a file")


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume as NIfTI: the whole file, or none.

    Args:
        volume: What to write, in the type of its data (bool as uint8). With a header, the file has that header's
            place in space: units, sform and qform, exactly if the affine is still the header's own.
        path: A file name ending in .nii or .nii.gz, in a folder that exists. A file of that name is replaced.

    Raises:
        InputError: The name ends otherwise, NIfTI has no such type, or the file cannot be written.
    """
    path = Path(path)
    check_writable(path)
    with _input_errors(path):
        content = _image(volume).to_bytes()
        if path.suffix == ".gz":
            content = igzip.compress(content, 2, mtime=0)
        with whole_file(path) as beside:
            beside.write_bytes(content)


def _decode(content: bytes, path: Path) -> tuple[ArrayProxy, nib.Nifti1Header, tuple[int, ...]]:
    zipped = content[:2] == GZIP_MAGIC
    stream = igzip.GzipFile(fileobj=io.BytesIO(content)) if zipped else io.BytesIO(content)
    header = _header(stream.read(HEADER_BYTES), path)
    shape = _shape(header, path)
    needed = _check_size(header, len(content), zipped, path)
    if zipped:
        stream.seek(0)
        content = stream.read(needed)
        if len(content) < needed:
            raise InputError(f"{path}: the header declares {needed} bytes, decompressed it holds {len(content)}")
        stream.read(1)  # at the end of the stream its checksum is compared
    return ArrayProxy(io.BytesIO(content), header), header, shape


def _header(head: bytes, path: Path) -> nib.Nifti1Header:
    kinds = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
    sizes = (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    size = next((size for size in sizes if size in kinds), 0)
    if not size or len(head) < size:
        raise InputError(f"{path}: not a NIfTI file (it does not start with a NIfTI header)")
    header = kinds[size](head[:size], check=False)
    header.check_fix(logger=SILENT)
    if not header["magic"].item().startswith(b"n+"):
        raise InputError(f"{path}: not a NIfTI file of one piece (.nii, .nii.gz), but the header of a pair")
    return header


def _shape(header: nib.Nifti1Header, path: Path) -> tuple[int, ...]:
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise InputError(f"{path}: a volume has 3 or 4 axes of at least 1 voxel, this one is {_text(shape)}")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: voxels must be whole or real numbers, these are {dtype}")
    return shape[:3] if shape[3:] == (1,) else shape


def _affine(header: nib.Nifti1Header, path: Path) -> np.ndarray:
    with np.errstate(all="ignore"):
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        volume, spacings_mm = np.linalg.det(affine[:3, :3]), np.linalg.norm(affine[:3, :3], axis=0)
        # A volume far below the product of the spacings: the axes lie in one plane. NaN fails the comparison too.
        invertible = abs(volume) > 1e-6 * spacings_mm.prod()
    if not (np.isfinite(affine).all() and invertible):
        raise InputError(f"{path}: the affine must be finite and invertible, it is {affine[:3].tolist()}")
    return affine


def _check_size(header: nib.Nifti1Header, size: int, zipped: bool, path: Path) -> int:
    """Return the bytes up to the last voxel; raise if a file of `size` bytes cannot hold them."""
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    needed = int(header.get_data_offset()) + math.prod(int(n) for n in shape) * dtype.itemsize
    if size * (GZIP_MAX_RATIO if zipped else 1) < needed:
        raise InputError(
            f"{path}: the header declares {_text(shape)} {dtype} ({needed} bytes), too much for a file of {size} bytes"
        )
    return needed


def _to_labels(values: np.ndarray, path: Path) -> np.ndarray:
    rule = "the labels of a mask must be whole numbers from 0 to 254"
    low, high = values.min(), values.max()
    if not (low >= -0.001 and high <= 254.001):  # so written that NaN is refused
        raise InputError(f"{path}: {rule}, it holds {high if low >= 0 else low}")
    if values.dtype.kind != "f":
        return values.astype(np.uint8)
    # Scaling leaves 0.9999999 of a 1.
    labels = np.rint(values)
    wrong = np.abs(values - labels) > 0.001
    if wrong.any():
        raise InputError(f"{path}: {rule}, it holds {values[wrong][0]}")
    return labels.astype(np.uint8)


def _image(volume: Volume) -> nib.Nifti1Image:
    data = volume.data.view(np.uint8) if volume.data.dtype == bool else volume.data
    kind = nib.Nifti2Image if isinstance(volume.header, nib.Nifti2Header) else nib.Nifti1Image
    header = kind.header_class()
    if volume.header is None:
        header.set_xyzt_units("mm")
        header.set_data_dtype(data.dtype)
        return kind(data, volume.affine, header)
    for field in PLACE_FIELDS:
        header[field] = volume.header[field]
    header.set_data_dtype(data.dtype)
    image = kind(data, volume.affine, header)
    sform, qform = int(volume.header["sform_code"]), int(volume.header["qform_code"])
    if (sform or qform) and not np.allclose(volume.header.get_best_affine(), volume.affine):
        image.set_sform(volume.affine, sform or qform)
        image.set_qform(volume.affine, qform)
    return image


def _size(path: Path) -> int:
    """Return the size in bytes of a regular file, following links."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(f"{path}: a folder, not a file" if path.is_dir() else f"{path}: not a regular file")
    return path.stat().st_size


@contextlib.contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """Turn what nibabel, igzip and the system raise over a bad file into one line that names it."""
    try:
        yield
    except EOFError:
        raise InputError(f"{path}: truncated, the file ends before the compressed data do") from None
    except MemoryError:
        raise InputError(f"{path}: too large for this machine's memory") from None
    except isal_zlib.error as error:  # type: ignore[misc]  # isal's stub says an instance, it is the class
        raise InputError(f"{path}: the compressed data are damaged ({error}); fetch or export the file again") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (HeaderDataError, ImageFileError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a sound NIfTI file ({' '.join(str(error).split())})") from None


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)
