"""The tasks of the Medical Segmentation Decathlon: fetched from their public address, verified, unpacked.

The archives lie in a bucket of the Registry of Open Data on AWS, and their MD5 sums are those that MONAI publishes with
its `DecathlonDataset` (Project-MONAI/MONAI, monai/apps/datasets.py). The data are CC-BY-SA 4.0, see
http://medicaldecathlon.com and Antonelli et al., Nature Communications 13:4128, 2022.
"""

import fcntl
import hashlib
import json
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import requests

from r2d2.config import Data
from r2d2.data.cases import find_cases
from r2d2.errors import InputError, WorkFailed
from r2d2.files import whole_file, whole_folder

ADDRESS = "https://msd-for-monai.s3-us-west-2.amazonaws.com/{name}.tar"
# Of a body that breaks off, what is behind its last whole piece is lost.
CHUNK_BYTES = 1 << 16
# To connect; between two pieces of the body.
TIMEOUT_S = (10, 60)
# Waits between tries that bring nothing new; after the last one it is given up.
BACK_OFF_S = (1, 2, 4, 8, 16)
# What is said to be this much larger than the task's archive is another file.
MOST = 1.2
# Answers of a server that may answer otherwise in a moment.
PASSING = {408, 425, 429, 500, 502, 503, 504}

Progress = Callable[[str, int, int], None]
"""Called with what is being counted ("Megabytes fetched"), how much of it is done, and of how much."""


class Task(NamedTuple):
    """A task of the Decathlon: its name, what is segmented in which scans, and its archive's size and MD5 sum."""

    name: str
    about: str
    bytes: int
    md5: str


TASKS = {
    task.name: task
    for task in (
        Task("Task01_BrainTumour", "gliomas, MRI", 7_610_000_000, "240a19d752f0d9e9101544901065d872"),
        Task("Task02_Heart", "left atrium, MRI", 456_000_000, "06ee59366e1e5124267b774dbd654057"),
        Task("Task03_Liver", "liver and tumours, CT", 28_925_891_584, "a90ec6c4aa7f6a3d087205e23d4e6397"),
        Task("Task04_Hippocampus", "head and body, MRI", 28_400_000, "9d24dba78a72977dbd1d2e110310f31b"),
        Task("Task05_Prostate", "two zones, MRI", 239_839_232, "35138f08b1efaef89d7424d2bcc928db"),
        Task("Task06_Lung", "tumours, CT", 9_163_696_640, "8afd997733c7fc0432f71255ba4e52dc"),
        Task("Task07_Pancreas", "pancreas and tumours, CT", 12_240_000_000, "4f7080cfca169fa8066d17ce6eb061e4"),
        Task("Task08_HepaticVessel", "vessels and tumours, CT", 9_380_000_000, "641d79e80ec66453921d997fbf12a29c"),
        Task("Task09_Spleen", "spleen, CT", 1_610_000_000, "410d4a301da4e5b2f6f86ec3ddba524e"),
        Task("Task10_Colon", "tumours, CT", 6_240_000_000, "bad7a188931dc2f6acf72b08eb6202d0"),
    )
}


def find_task(text: str) -> Task:
    """Return the task that a person means by `Task02_Heart`, `task02`, `heart` or `2`.

    Raises:
        InputError: There is none; those that there are, with their sizes.
    """
    wanted = text.strip().lower()
    for task in TASKS.values():
        number, _, organ = task.name.lower().removeprefix("task").partition("_")
        if wanted in (task.name.lower(), organ, number, f"task{number}", str(int(number)), f"task{int(number)}"):
            return task
    listed = ", ".join(f"{task.name} ({task.about}, {_size(task.bytes)})" for task in TASKS.values())
    raise InputError(f"no task {text!r} in the Decathlon; there are {listed}")


def fetch(
    task: str, folder: Path, url: str | None = None, keep_archive: bool = False, progress: Progress | None = None
) -> Path:
    """Return the folder of a task of the Decathlon, fetched unless it is there already.

    What has come of the archive is kept as `TASK.tar.part` in `folder`, and a later call goes on behind it, if the
    server still has the same file (by its ETag or date) and can send parts of it. The archive's sum is compared before
    anything is unpacked; the task's folder then appears whole or not at all, without hidden files (`._*`).

    Args:
        task: As `find_task` takes it.
        folder: Where the task's folder will lie; it is made if need be. An archive that lies there under its own name
            (`Task02_Heart.tar`) is taken instead of fetching it, and kept.
        url: Another address of the same archive, http or https.
        keep_archive: Leave the archive as `TASK.tar` in `folder`, instead of removing it once it is unpacked.
        progress: Called again and again with what is counted, how much is done and of how much.

    Raises:
        InputError: There is no such task or address; the folder holds something else, cannot be written or is too
            small; the archive is not the published one, or holds links, devices or paths that lead out of it.
        WorkFailed: The server could not be reached, or broke off, time and again.
    """
    wanted = find_task(task)
    target = folder / wanted.name
    report = progress or _silent
    with _one_line(target):
        if not _is_free(target):
            _check_whole(target)
            return target
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / f"{wanted.name}.tar"
        if archive.exists():
            try:
                _check_sum(archive, wanted, report)
            except InputError as error:
                raise InputError(f"{error}; remove it and run it again") from None
            _unpack(archive, target, report)
        else:
            part = archive.with_name(f"{archive.name}.part")
            with _alone(part) as file:
                address = url or ADDRESS.format(name=wanted.name)
                _download(address, file, part, wanted, report)
                file.flush()
                try:
                    _check_sum(part, wanted, report)
                except InputError as error:
                    _remove(part)  # or the next call would go on behind what is wrong
                    raise InputError(f"{error}, and it was removed: run it again") from None
                _unpack(part, target, report)
                if keep_archive:
                    part.rename(archive)
                _remove(part)
        _check_whole(target)
    return target


def _silent(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def _is_free(target: Path) -> bool:
    return not target.exists() or (target.is_dir() and not any(target.iterdir()))


def _check_whole(target: Path) -> None:
    try:
        find_cases(Data(path=target))
    except InputError as error:
        raise InputError(f"{error}; remove {target} to fetch it anew") from None


@contextmanager
def _one_line(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or target}: cannot be made ({error.strerror or error}); mend that and run it again, it "
            "goes on where it stopped"
        ) from None


@contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """Open the file for what has come so far; raise if another process has it open so."""
    with part.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{part}: another fetch is writing it; wait for that one, or stop it") from None
        except OSError:
            pass  # a file system without locks
        try:
            yield file
        finally:
            if part.exists() and not part.stat().st_size:
                _remove(part)


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


class _Source(NamedTuple):
    """What a server said of the file that a part is of: which version it is, and how many bytes."""

    validator: str = ""
    total: int | None = None


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _recall(part: Path) -> _Source:
    try:
        values = json.loads(_note(part).read_text(encoding="utf-8"))
        return _Source(str(values["validator"]), values["total"] and int(values["total"]))
    except (OSError, ValueError, TypeError, KeyError):
        return _Source()  # no part without its note: what is there cannot be gone on with


class _BrokeOff(Exception):  # noqa: N818
    """A try that may go better the next time; why, in a few words."""


def _download(url: str, file: BinaryIO, part: Path, task: Task, report: Progress) -> None:
    most = _length(file)
    failures = 0
    with requests.Session() as session:
        while True:
            try:
                return _receive(session, url, file, part, task, report)
            except requests.exceptions.RequestException as error:
                if isinstance(error, ValueError):  # what requests finds wrong with an address before it asks anyone
                    raise InputError(f"{url}: no address of a file; it must be like {ADDRESS}") from None
                reason = _reason(error)
            except _BrokeOff as error:
                reason = str(error)
            # Not every piece is a step ahead: without Range a server begins anew each time.
            failures = 0 if _length(file) > most else failures + 1
            most = max(most, _length(file))
            if failures > len(BACK_OFF_S):
                raise WorkFailed(
                    f"{url}: {reason}, {failures} times in a row; {_size(_length(file))} are in {part}: run it again, "
                    "it goes on where it stopped"
                )
            time.sleep(BACK_OFF_S[max(0, failures - 1)])


def _receive(session: requests.Session, url: str, file: BinaryIO, part: Path, task: Task, report: Progress) -> None:
    """Ask once for what is missing and write it; return when the file is complete."""
    have, source = _length(file), _recall(part)
    if have and have == source.total:
        return
    headers = {"Accept-Encoding": "identity"}
    if have and source.validator:
        # With If-Range a server that has another version by now sends the whole of it.
        headers |= {"Range": f"bytes={have}-", "If-Range": source.validator}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        status, ranges = answer.status_code, answer.headers.get("Content-Range", "")
        if status == 416 and ranges == f"bytes */{have}":
            return  # all of it is here, whatever length was promised before
        if status == 206 and ranges.startswith(f"bytes {have}-"):
            stated = ranges.rpartition("/")[2]
        elif status in (200, 206, 416):
            file.truncate(0)
            if status != 200:
                raise _BrokeOff(f"the server answers a wish for the bytes from {have} with {ranges or status!r}")
            have, stated = 0, answer.headers.get("Content-Length", "")
        elif status in PASSING:
            raise _BrokeOff(f"the server answers {status} {answer.reason}")
        else:
            raise InputError(f"{url}: the server answers {status} {answer.reason}; look at the address")
        total = int(stated) if re.fullmatch("[0-9]{1,18}", stated) else None
        if (total or 0) > MOST * task.bytes:
            raise InputError(f"{url}: {_size(total or 0)}, and {task.name} has {_size(task.bytes)}; another file")
        _check_room(part.parent, 2 * (total or task.bytes) - have, "the archive and what is in it")
        if not have:
            # A weak ETag (W/...) does not promise the same bytes.
            tags = (answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", ""))
            validator = next((tag for tag in tags if tag and not tag.startswith("W/")), "")
            with whole_file(_note(part)) as beside:
                beside.write_text(json.dumps({"validator": validator, "total": total}), encoding="utf-8")
        for chunk in answer.iter_content(CHUNK_BYTES):
            file.write(chunk)
            have += len(chunk)
            if have > MOST * task.bytes:
                file.truncate(0)
                raise InputError(
                    f"{url}: {_size(have)} and more, and {task.name} has {_size(task.bytes)}; another file"
                )
            _report(report, "fetched", have, max(have, total or task.bytes))
    if have < (total or 0):
        raise _BrokeOff("the connection broke off")


def _length(file: BinaryIO) -> int:
    return file.seek(0, 2)


def _reason(error: requests.exceptions.RequestException) -> str:
    """Why a request failed, in a few words; the library's own are a chain of classes and addresses."""
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {TIMEOUT_S[1]} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "no safe connection (REQUESTS_CA_BUNDLE names a file of certificates to trust besides)"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy (HTTPS_PROXY) cannot be reached"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    return "the server cannot be reached"


def _check_sum(archive: Path, task: Task, report: Progress) -> None:
    # MD5 because it is what is published: it finds damage, and here nobody's signature hangs on it.
    digest = hashlib.md5(usedforsecurity=False)
    size, done = archive.stat().st_size, 0
    with archive.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            _report(report, "checked", done, size)
    if digest.hexdigest() != task.md5:
        raise InputError(
            f"{archive}: not the published archive, or damaged on its way ({size} bytes, MD5 {digest.hexdigest()}, it "
            f"must be {task.md5}); nothing was unpacked"
        )


def _unpack(archive: Path, target: Path, report: Progress) -> None:
    try:
        with tarfile.open(archive, "r:") as tar, whole_folder(target) as folder:
            members = list(_members(tar, archive, target.name))
            total, done = sum(member.size for member in members), 0
            _check_room(target.parent, total, "what is in the archive")
            for member in members:
                tar.extract(member, folder, filter="data")
                done += member.size
                _report(report, "unpacked", done, total)
            if not (folder / "dataset.json").is_file():
                raise InputError(f"{archive}: holds no {target.name}/dataset.json; not a task of the Decathlon")
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{archive}: not a whole tar archive ({' '.join(str(error).split())})") from None


def _members(tar: tarfile.TarFile, archive: Path, name: str) -> Iterator[tarfile.TarInfo]:
    """Yield the visible files and folders below the archive's folder `name`, under their paths in it."""
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{archive}: holds {member.name!r}, a path that leads out of it; nothing was unpacked")
        if not (member.isfile() or member.isdir()):
            raise InputError(f"{archive}: holds {member.name!r}, a link or a device; nothing was unpacked")
        if any(part.startswith(".") for part in path.parts):
            continue
        if path.parts[:1] not in ((name,), ()):
            raise InputError(f"{archive}: holds {member.name!r}, which is not in {name}/; nothing was unpacked")
        if len(path.parts) > 1:
            yield member.replace(name=str(PurePosixPath(*path.parts[1:])), deep=False)


def _check_room(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder}: {_size(needed)} are needed for {what}, and {_size(free)} are free; name another")


def _report(report: Progress, what: str, done: int, total: int) -> None:
    mega = 1_000_000
    report(f"Megabytes {what}", -(-done // mega), -(-total // mega))


def _size(count: int) -> str:
    """A number of bytes for people: 28.9 GB, 456 MB, 12 kB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}" if unit == "GB" else f"{count / factor:.0f} {unit}"
    return f"{count} bytes"
