"""Nothing half-written: files and folders are made beside their place and take it when they are whole, on the disk."""

import copy
import os
import shutil
import stat
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from r2d2.errors import InputError

MOST_ENTRIES = 10_000
"""Files in a zip that is unpacked here: a model's has three, a package's a few dozen."""
PIECE_BYTES = 1 << 20
"""What is unpacked of an entry at a time."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Make a file, or none.

    Yields:
        A path beside `path` to write to. It replaces `path` when the block ends well, and is removed otherwise.
    """
    temporary = _beside(path)
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Make a folder, or none.

    Args:
        path: The folder; it must be absent, or empty, or `replace` be given.
        replace: What is there goes when the new one is whole. A kill between the two leaves the old one set aside,
            where `recover` finds it. The folder around it must be there: it is not made again for whoever it was taken
            away from.

    Yields:
        A new, empty folder beside `path`. It becomes `path` when the block ends well, and is removed otherwise.
    """
    temporary = _beside(path)
    if not replace:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir()
    try:
        yield temporary
        to_disk(temporary)
        aside = temporary.with_suffix(".old")
        if replace:
            with suppress(FileNotFoundError):
                path.replace(aside)
        temporary.replace(path)
        _to_disk(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there, so that at no moment it is there in part."""
    temporary = _beside(path)
    with suppress(FileNotFoundError):
        path.replace(temporary)
        shutil.rmtree(temporary)


def recover(folder: Path) -> None:
    """Put right what whoever was killed in the middle of one of the above left in a folder: nobody may be writing."""
    for path in folder.glob(".*.old"):
        name = path.name[1:].rpartition(".")[0].rpartition(".")[0]
        if (folder / name).exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.replace(folder / name)
    for path in folder.glob(".*.part"):
        shutil.rmtree(path, ignore_errors=True)


def to_disk(path: Path) -> None:
    """Wait until a file, or all of a folder, is on the disk.

    A name that is there before its content would survive a power cut.
    """
    for inner in path.rglob("*") if path.is_dir() else ():
        _to_disk(inner)
    _to_disk(path)


def check_zip(path: Path, largest_bytes: int) -> None:
    """Raise an InputError if a zip could do harm to whoever unpacks it.

    It is unpacked piece by piece, to nowhere: of an entry with more in it than its directory declares Python's
    `zipfile` gives no more than that, but has all of it in memory before.

    Args:
        path: The file.
        largest_bytes: What all of it may unpack to.

    Raises:
        InputError: It is missing or no sound zip; it holds more bytes or more than `MOST_ENTRIES` entries, the same
            name twice, a link, an encrypted entry, one that is not packed by deflate or has more in it than it
            declares, or a name that leads out of the folder that it is unpacked in.
    """
    try:
        with path.open("rb") as file:
            entries = zip_entries(file, str(path), largest_bytes)
            with zipfile.ZipFile(file) as opened:
                for entry in entries:
                    for _ in pieces(opened, entry):
                        pass
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: not a sound zip file ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def pieces(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """What an entry of a zip unpacks to, piece by piece, and never more than it declares.

    Raises:
        zipfile.BadZipFile: It is damaged, or unpacks to more than it declares.
    """
    one_more, size = copy.copy(entry), 0
    one_more.file_size += 1
    try:
        with opened.open(one_more) as packed:
            while piece := packed.read(PIECE_BYTES):
                size += len(piece)
                if size > entry.file_size:
                    raise zipfile.BadZipFile("an entry unpacks to more than it declares")
                yield piece
    except (zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise zipfile.BadZipFile(str(error)) from None


def zip_entries(file: BinaryIO, path: str, largest_bytes: int) -> list[zipfile.ZipInfo]:
    """The entries of an open zip that could do no harm; `path` is what errors call it. See `check_zip`.

    Raises:
        InputError: As `check_zip`.
    """
    try:
        with zipfile.ZipFile(file) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(f"{path}: not a sound zip file ({error}); fetch it again") from None
    if len(entries) > MOST_ENTRIES:
        raise InputError(f"{path}: holds {len(entries)} entries, more than {MOST_ENTRIES}; it is not unpacked")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > largest_bytes:
        size = file.seek(0, os.SEEK_END)
        raise InputError(
            f"{path}: {size} bytes that unpack to {unpacked}, more than the {largest_bytes} that are allowed; "
            "it is not unpacked"
        )
    names = set()
    for entry in entries:
        name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or entry.flag_bits & 1:
            wrong = "is encrypted" if entry.flag_bits & 1 else "is a link or a device"
        elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Python unpacks these whole, whatever size they declare.
            wrong = "is packed by another method than deflate"
        elif PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:  # which knows both / and \
            wrong = "leads out of the folder"
        elif name in names:
            wrong = "is there twice"
        else:
            names.add(name)
            continue
        raise InputError(f"{path}: its entry {name!r} {wrong}; it is not unpacked")
    return entries


def same_file(path: Path, other: Path) -> None:
    """Make `other` the same file as `path`, by another name; a copy where a file system knows no such names."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, other)


def _beside(path: Path) -> Path:
    # Not the number of the process: processes of two hosts or containers that share the disk can have the same one.
    return path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:12]}.part")


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
