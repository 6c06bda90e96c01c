"""Uploads: files from strangers, checked by what is in them, read as one scan without the person, and gone again."""

import fcntl
import math
import os
import re
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from r2d2.errors import InputError
from r2d2.files import pieces, zip_entries

if TYPE_CHECKING:
    from r2d2.imgmed import Volume

LARGEST_MB = 500
"""What a file may have: a CT of 900 slices of 512 x 512 as it comes from the scanner."""
UNPACKED_BYTES = 2 << 30
MOST_VOXELS = 1 << 28
"""Of all channels together: 512 x 512 x 1024, a gigabyte as float32."""
MOST_FILES = 16
PREFIX = "r2d2-upload-"
_one_at_a_time = threading.Lock()
"""A scan of that size takes 3.5 GB while it is read."""
_making = threading.Lock()


def read(contents: Sequence[bytes]) -> "Volume":
    """Return what somebody uploaded as one scan, (X, Y, Z) or (X, Y, Z, C), of which nothing is left on the disk.

    A file is taken for what is in it, whatever its name: NIfTI, plain or gzipped, or the zip of a DICOM series. What
    DICOM's headers say of the person is never parsed nor written (`imgmed.write_anonymous`); of NIfTI's header nothing
    goes into the files that are made of it but the place in space (`imgmed.write_volume`).

    Args:
        contents: The files' contents, one for each channel in their order; of one file all channels are taken.

    Raises:
        InputError: Too many, too large, a bomb, neither of the two, or no sound scan. Files are called by their number.
    """
    from r2d2 import imgmed

    if not 1 <= len(contents) <= MOST_FILES:
        raise InputError(f"{len(contents)} files; a scan is one, or one for each of at most {MOST_FILES} channels")
    with _one_at_a_time, private_folder() as folder:
        try:
            paths = [_entered(content, folder / f"file {number}") for number, content in enumerate(contents, start=1)]
            voxels = 0
            for path in paths:
                shape, _ = imgmed.read_geometry(path)
                voxels += math.prod(shape)
                if voxels > MOST_VOXELS:
                    told = "x".join(map(str, shape))
                    raise InputError(f"{path}: {told} voxels, more than the {MOST_VOXELS} that a page takes")
            return imgmed.read_channels(paths)
        except InputError as error:
            raise InputError(_plain(str(error), folder)) from None


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user may enter, removed with all in it when the block ends, whichever way.

    What a process that was killed left is removed with the next one: a living one holds a lock on its own.
    """
    sweep()
    folder, held = _held()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _held() -> tuple[Path, int]:
    """A new folder, and what holds its lock."""
    while True:
        with _making:  # else another thread's sweep would take it before it is locked
            folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            with suppress(FileNotFoundError):  # as another process' may
                held = os.open(folder, os.O_RDONLY)
                fcntl.flock(held, fcntl.LOCK_EX)
                if folder.exists():
                    return folder, held
                os.close(held)


def sweep() -> None:
    """Remove the private folders whose owners were killed."""
    with _making:
        _sweep()


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, in use, or removed meanwhile
            held = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(held)


def _entered(content: bytes, place: Path) -> Path:
    """Write a file's content, without the person, where it can be read from; `place` is a new path, without suffix."""
    from r2d2 import imgmed

    if len(content) > LARGEST_MB << 20:
        raise InputError(f"{place}: {len(content) >> 20} MB, more than the {LARGEST_MB} that a file may have")
    if content[:4] == b"PK\x03\x04":
        entries = zip_entries(BytesIO(content), str(place), UNPACKED_BYTES)
        place.mkdir()
        with zipfile.ZipFile(BytesIO(content)) as opened:
            slices = (_unpacked(opened, entry, place) for entry in entries if not entry.is_dir())
            if not imgmed.write_anonymous(slices, place):
                raise InputError(f"{place}: a zip without a DICOM image in it; zip the folder of one series")
        return place
    if content[128:132] == b"DICM":
        raise InputError(f"{place}: one DICOM file; zip the folder of its series and give that")
    zipped = content[:2] == b"\x1f\x8b"
    if not zipped and {int.from_bytes(content[:4], order) for order in ("little", "big")}.isdisjoint((348, 540)):
        raise InputError(f"{place}: neither NIfTI (.nii, .nii.gz) nor the zip of a DICOM series, by what is in it")
    path = place.with_suffix(".nii.gz" if zipped else ".nii")
    path.write_bytes(content)
    return path


def _unpacked(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path) -> bytes:
    try:
        return b"".join(pieces(opened, entry))
    except (OSError, zipfile.BadZipFile):
        raise InputError(f"{place}: not a sound zip file, an entry cannot be unpacked; zip the folder again") from None


def _plain(text: str, folder: Path) -> str:
    """An error's text without our folder, and without the names in a zip, which may be a person's."""
    text = re.sub(
        r"its entry .*? (leads out|is there twice|is encrypted|is a link|is packed)", r"an entry \1", text, flags=re.S
    )
    return re.sub(r"(file \d+)\.nii(\.gz)?\b", r"\1", text.replace(f"{folder}{os.sep}", ""))
