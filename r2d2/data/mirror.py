"""Datasets that lie elsewhere: any folder that fsspec knows (s3://, gs://, https://, sftp://), copied here once."""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from r2d2 import config, job
from r2d2.console import bar
from r2d2.errors import InputError, WorkFailed
from r2d2.files import whole_file

STREAMS = 8
MANIFEST = ".mirror.jsonl"
"""In the copy: a line a file, with what its source told of it when it was fetched, and the copy's size."""
VERSION = (
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "mtime",
    "created",
)
"""Where protocols tell a file from a newer one of its name."""


@dataclass(frozen=True)
class Remote:
    """The files below a URL: for each its path there and what the listing tells of it, by its path inside."""

    url: str
    system: fsspec.AbstractFileSystem
    files: dict[PurePosixPath, tuple[str, dict[str, Any]]]


def here(data: config.Data, store: Path) -> config.Data:
    """The data, or those of a local copy if they are at a URL.

    Raises:
        InputError: There is nothing at the URL; or the folder is not where a Ray job runs.
        WorkFailed: The copy broke off.

    The copy lies in `store`, under the URL's name; it is brought up to date each time.
    """
    if isinstance(data.path, Path):
        if job.submission() and not data.path.is_dir():
            inside = data.path.is_relative_to(Path.cwd())
            why = "; relative paths start from the job's copy of the submitted folder, without data" if inside else ""
            raise InputError(
                f"data.path {data.path}: no such folder on {socket.gethostname()}, where the job runs{why}; give a "
                "folder that all nodes share, by its whole path, or a URL (s3://, https://, ...)"
            )
        return data
    remote = list_remote(data.path)
    readable, own = (
        re.sub(r"[^\w.-]+", "_", data.path).strip("_")[:100],
        hashlib.sha256(data.path.encode()).hexdigest()[:8],
    )
    folder = store / "mirrors" / f"{readable}-{own}"
    with bar(f"Copying {data.path[:60]}", len(remote.files)) as advance:
        copy(remote, folder, advance)
    return data.model_copy(update={"path": folder})


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
            files[inside] = path, about
    if not files:
        raise InputError(f"{url}: no files there")
    return Remote(url, system, files)


def copy(remote: Remote, folder: Path, progress: Callable[[], None]) -> None:
    """Make a local folder a copy of a remote one: fetch what is new or has changed, several at a time, remove the rest.

    A file has changed if its size or anything else that its source tells is other than when it was fetched; if the
    source tells nothing, it is fetched each time.

    Args:
        remote: From `list_remote`.
        folder: Where the copy goes; no other files may be in it.
        progress: Called once per file.

    Raises:
        WorkFailed: The copy broke off; what is whole is kept for the next try.
    """
    known, writing = _read_manifest(folder / MANIFEST), threading.Lock()

    def fetch(inside: PurePosixPath) -> None:
        target, (path, about) = folder / inside, remote.files[inside]
        if about.get("size") is None:  # the listing of a web server has names alone
            about = remote.system.info(path)
        version = {key: str(about[key]) for key in ("size", *VERSION) if about.get(key) is not None}
        if not (version and target.is_file() and known.get(str(inside)) == [version, target.stat().st_size]):
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as beside:
                remote.system.get_file(path, str(beside))
            with writing, (folder / MANIFEST).open("a") as manifest:
                manifest.write(json.dumps([str(inside), version, target.stat().st_size]) + "\n")
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
    _remove_others(folder, {folder / MANIFEST, *(folder / inside for inside in remote.files)})


def _read_manifest(path: Path) -> dict[str, list[Any]]:
    known = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):  # the last line, if it was cut
            inside, *state = json.loads(line)
            known[inside] = state
    return known


def _remove_others(folder: Path, keep: set[Path]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_dir():
            with suppress(OSError):  # not empty
                path.rmdir()
        elif path not in keep:
            path.unlink()
