"""PNG, JPEG and TIFF as volumes of one slice: grey or RGB, 8 or 16 bits, rows and columns as they are stored.

What a camera noted of its own orientation (EXIF) is ignored, for a mask beside the picture has no such note; a TIFF
with such a note is refused.
"""

from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk  # noqa: N813  # its documentation's own name
from numpy.typing import DTypeLike

from r2d2.errors import InputError
from r2d2.files import whole_file
from r2d2.imgmed.checks import MAX_RATIO, check_room, file_size
from r2d2.imgmed.volume import Volume

READERS = {
    **{".png": "PNGImageIO", ".jpg": "JPEGImageIO", ".jpeg": "JPEGImageIO"},
    **{".tif": "TIFFImageIO", ".tiff": "TIFFImageIO"},
}
SUFFIXES = tuple(READERS)


def files(path: Path) -> tuple[Path, ...]:
    """Return the file itself."""
    return (path,)


def geometry(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the shape, (X, Y, 1) or (X, Y, 1, 3), and the identity; the file's size must fit them."""
    return _open(path)[1], np.eye(4)


def read(path: Path, dtype: DTypeLike | None) -> Volume:
    """Return the picture in a type, or with None in its own; its columns are X, its rows Y, its colours R, G, B."""
    reader, shape = _open(path)
    try:
        if READERS[path.suffix.lower()] == "JPEGImageIO":  # ITK fills what is missing of a JPEG with grey
            kind = cv2.IMREAD_COLOR_RGB if shape[3:] else cv2.IMREAD_GRAYSCALE
            pixels = cv2.imdecode(np.fromfile(path, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
        else:
            pixels = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError:
        pixels = None
    if pixels is None:
        raise InputError(f"{path}: truncated or damaged; fetch or export it again")
    pixels = pixels.reshape(shape[1], shape[0], *shape[2:])
    return Volume(pixels.swapaxes(0, 1).astype(dtype or pixels.dtype), np.eye(4))


def write(volume: Volume, path: Path) -> None:
    """Write one slice as .png or .tif, losslessly; the affine is lost."""
    pixels = volume.data[:, :, 0].swapaxes(0, 1)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: a picture holds uint8 or uint16, this volume is {pixels.dtype}; convert it first")
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    content = cv2.imencode(path.suffix, np.ascontiguousarray(pixels))[1].tobytes()
    with whole_file(path) as beside:
        beside.write_bytes(content)


def _open(path: Path) -> tuple[sitk.ImageFileReader, tuple[int, ...]]:
    """Return a reader that has read the header, and the shape; raise unless it is a picture that fits its file."""
    size = file_size(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(READERS[path.suffix.lower()])  # by content it would take any of its formats
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise InputError(f"{path}: not a sound {path.suffix[1:].upper()} file; export it again") from None
    width, height, *pages = reader.GetSize()
    channels = reader.GetNumberOfComponents()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    bits = 8 if "8-bit unsigned" in kind else 16 if "16-bit unsigned" in kind else 0
    if not bits or channels not in (1, 3) or any(count != 1 for count in pages):
        several = f", {pages[0]} pages" if pages else ""
        if channels == 4 and path.suffix.lower() in (".tif", ".tiff"):
            several += " (which is also what a TIFF counts as that notes an orientation)"
        raise InputError(
            f"{path}: a picture must be grey or RGB, 8 or 16 bits, one page; this one has {channels} channels, "
            f"{kind}{several}"
        )
    shape = (width, height, 1) if channels == 1 else (width, height, 1, channels)
    check_room(shape, np.dtype(f"u{bits // 8}"), width * height * channels * bits // 8, 2 * MAX_RATIO * size, path)
    return reader, shape
