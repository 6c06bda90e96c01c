"""Datasets that lie elsewhere: any folder that fsspec knows (s3://, gs://, https://, sftp://), copied here once."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import fsspec

from r2d2.errors import InputError, WorkFailed
from r2d2.files import whole_file

STREAMS = 8


@dataclass(frozen=True)
class Remote:
    """The files below a URL: for each its path there and its size in bytes, if known, by its path inside."""

    url: str
    system: fsspec.AbstractFileSystem
    files: dict[PurePosixPath, tuple[str, int | None]]


def list_remote(url: str) -> Remote:
    """Return what lies below a URL, hidden files left out.

    Raises:
        InputError: There is nothing, its protocol needs a package that is not installed, or a name leads out of it.
    """
    try:
        system, root = fsspec.core.url_to_fs(url)
        found = system.find(root, detail=True)
    except (ImportError, OSError, ValueError) as error:
        raise InputError(f"{url}: cannot be listed ({' '.join(str(error).split())[:200]})") from None
    files = {}
    for path, about in found.items():
        inside = PurePosixPath(path.removeprefix(root).lstrip("/"))
        if ".." in inside.parts:
            raise InputError(f"{url}: lists {path!r}, which leads out of it")
        if not any(part.startswith(".") for part in inside.parts):
            files[inside] = path, about.get("size")
    if not files:
        raise InputError(f"{url}: no files there")
    return Remote(url, system, files)


def copy(remote: Remote, folder: Path, progress: Callable[[], None]) -> None:
    """Copy all files to a local folder, several at a time; those that are there, as large and as new, are left.

    Args:
        remote: From `list_remote`.
        folder: Where the copy goes.
        progress: Called once per file.

    Raises:
        WorkFailed: The copy broke off; what is whole is kept for the next try.
    """

    def fetch(inside: PurePosixPath) -> None:
        target, (path, size) = folder / inside, remote.files[inside]
        if not (target.is_file() and target.stat().st_size == size and not _is_newer(remote, path, target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as beside:
                remote.system.get_file(path, str(beside))
        progress()

    with ThreadPoolExecutor(STREAMS) as pool:
        try:
            list(pool.map(fetch, remote.files))
        except (OSError, ValueError) as error:
            pool.shutdown(cancel_futures=True)
            told = " ".join(str(error).split())[:200]
            raise WorkFailed(
                f"{remote.url}: the copy broke off ({told}); run it again, it goes on where it stopped"
            ) from None


def _is_newer(remote: Remote, path: str, target: Path) -> bool:
    with contextlib.suppress(NotImplementedError):  # not every protocol tells
        return remote.system.modified(path).timestamp() > target.stat().st_mtime
    return False
