"""Nothing half-written: files and folders are made beside their place and take it when they are whole, on the disk."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
            where `recover` finds it.

    Yields:
        A new, empty folder beside `path`. It becomes `path` when the block ends well, and is removed otherwise.
    """
    temporary = _beside(path)
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
