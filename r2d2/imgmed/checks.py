"""What every reader asks of a file before it is believed, so that a bad one costs a line and not a crash."""

import contextlib
import re
from collections.abc import Iterator
from gzip import BadGzipFile
from pathlib import Path

import cv2
import numpy as np
from isal import isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from r2d2.errors import InputError

MAX_RATIO = 1032
"""Deflate cannot shrink bytes by more than this, so a file's size bounds what it can hold."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def file_size(path: Path, named_by: Path | None = None) -> int:
    """Return the size in bytes of a regular file, following links.

    Args:
        path: The file.
        named_by: The header that says so, if it is the data's file.

    Raises:
        InputError: There is none, or it is a folder, a pipe, a device.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file" + (f", and {named_by} has its voxels there" if named_by else ""))
    if not path.is_file():
        raise InputError(f"{path}: a folder, not a file" if path.is_dir() else f"{path}: not a regular file")
    return path.stat().st_size


def check_voxels(shape: tuple[int, ...], dtype: np.dtype, path: Path) -> tuple[int, ...]:
    """Return the shape of a volume, (X, Y, Z) or (X, Y, Z, C); a fourth axis of length 1 is dropped.

    Raises:
        InputError: Not 3 or 4 axes, an empty one, or voxels that are not whole or real numbers.
    """
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise InputError(f"{path}: a volume has 3 or 4 axes of at least 1 voxel, this one is {as_text(shape)}")
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: voxels must be whole or real numbers, these are {dtype}")
    return shape[:3] if shape[3:] == (1,) else shape


def check_room(shape: tuple[int, ...], dtype: np.dtype, needed: int, room: int, path: Path) -> None:
    """Raise an InputError if a file that holds at most `room` bytes cannot hold the `needed` ones."""
    if room < needed:
        size = path.stat().st_size
        raise InputError(
            f"{path}: the header declares {as_text(shape)} {dtype} ({needed} bytes), too much for a file of {size} "
            "bytes"
        )


def check_affine(affine: np.ndarray, path: Path) -> np.ndarray:
    """Return a (4, 4) float64 affine that is finite and invertible; raise an InputError otherwise."""
    affine = np.asarray(affine, dtype=np.float64)
    with np.errstate(all="ignore"):
        volume, spacings_mm = np.linalg.det(affine[:3, :3]), np.linalg.norm(affine[:3, :3], axis=0)
        # A volume far below the product of the spacings: the axes lie in one plane. NaN fails the comparison too.
        invertible = abs(volume) > 1e-6 * spacings_mm.prod()
    if not (np.isfinite(affine).all() and invertible):
        raise InputError(f"{path}: the affine must be finite and invertible, it is {affine[:3].tolist()}")
    return affine


@contextlib.contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Turn what the libraries and the system raise over a bad file into one line that names it."""
    try:
        yield
    except InputError as error:
        # What a file says of itself may hold line breaks and worse.
        raise InputError(UNPRINTABLE.sub(" ", str(error))) from None
    except EOFError:
        raise InputError(f"{path}: truncated, the file ends before the compressed data do") from None
    except MemoryError:
        raise InputError(f"{path}: too large for this machine's memory") from None
    except (isal_zlib.error, BadGzipFile) as error:  # type: ignore[misc]  # isal's stub says an instance, not the class
        raise InputError(f"{path}: the compressed data are damaged ({error}); fetch or export the file again") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (HeaderDataError, ImageFileError, ValueError, OverflowError, RuntimeError, cv2.error) as error:
        raise InputError(f"{path}: not a sound file ({' '.join(str(error).split())})") from None


def as_text(shape: tuple[int, ...]) -> str:
    """Return a shape as people write it: 240x240x155."""
    return "x".join(str(n) for n in shape)
