"""What a run has to tell its tracking server, kept on the disk until it has arrived.

Training never waits for a server. Whoever has something to record (rank 0, the driver) appends it to a file of its own
in the run's outbox; `delivery` reads these files and carries out what they say, in order, now or when it is back.
"""

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2d2.files import whole_file

FOLDER = "outbox"
"""The outbox' name in a run's folder."""


class Outbox:
    """Where one process writes down what its run is to record, until its file is sealed: what it writes then is lost.

    Args:
        folder: The run's outbox, on storage that the driver sees too.
        writer: A name for the process' file. Files are delivered in the order of their names.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        self._folder = folder
        self._path = folder / f"{writer}.jsonl"
        self._lock = threading.Lock()
        self._written: set[int] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def log(self, metrics: Mapping[str, float], step: int = 0, once: str | None = None) -> None:
        """Metrics of one step; with a name, once only, whoever else has written them down by this name already."""
        self._append("metrics", step=step, once=once, values={key: float(value) for key, value in metrics.items()})

    def log_history(self, history: Sequence[Mapping[str, float]]) -> None:
        """Every epoch's metrics, each epoch once.

        Args:
            history: A dictionary of metrics an epoch, `epoch` (from 1) among them; it is the step.
        """
        for row in history:
            epoch = int(row["epoch"])
            if epoch not in self._written:
                self.log({key: row[key] for key in row if key != "epoch"}, epoch, once=f"epoch {epoch}")
                self._written.add(epoch)

    def forget_after(self, epoch: int) -> None:
        """The run has gone back to this epoch: later ones are recorded anew."""
        self._written = {step for step in self._written if step <= epoch}
        self._append("forget", step=epoch)

    def tag(self, **tags: object) -> None:
        """Tags, each under `r2d2.`."""
        self._append("tags", values={f"r2d2.{key}": str(value)[:5000] for key, value in tags.items()})

    def attach_text(self, path: str, text: str) -> None:
        """A text file of the run, at this path among its files."""
        if self._sealed:
            return
        folder, _, name = path.rpartition("/")
        stored = self._stored(name)
        stored.write_text(text, encoding="utf-8")
        self._append("file", folder=folder, stored=str(stored.relative_to(self._folder)))

    def attach_file(self, file: Path, folder: str) -> None:
        """A copy of a local file, in a folder of the run's."""
        if self._sealed:
            return
        stored = self._stored(file.name)
        shutil.copyfile(file, stored)
        self._append("file", folder=folder, stored=str(stored.relative_to(self._folder)))

    def register(self, folder: Path, name: str, tags: Mapping[str, str]) -> None:
        """A model's folder, to be stored with the run and registered under a name; it stays where it is."""
        self._append("model", folder=str(folder), name=name, tags=dict(tags))

    def end(self, status: str, reason: str) -> None:
        """Close the run: `status` FINISHED, FAILED or KILLED, and why."""
        self.tag(reason=reason)
        self._append("end", status=status)

    @property
    def _sealed(self) -> bool:
        return _sealed_at(self._path) is not None

    def _stored(self, name: str) -> Path:
        (folder := self._folder / "files" / uuid.uuid4().hex).mkdir(parents=True)
        return folder / name

    def _append(self, kind: str, **entry: Any) -> None:
        # The time is part of the entry: what arrives twice is the same to the server, which keeps it once.
        if self._sealed:
            return
        line = json.dumps({"kind": kind, "time": int(time.time() * 1000)} | entry) + "\n"
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def seal(folder: Path, writers: str = "*") -> None:
    """Close the files of these writers for good: what an attempt or a driver writes that was replaced is not delivered.

    Args:
        folder: The outbox.
        writers: A pattern of their names.
    """
    for path in folder.glob(f"{writers}.jsonl"):
        if _sealed_at(path) is None:
            with whole_file(path.with_suffix(".sealed")) as beside:
                beside.write_text(str(path.stat().st_size))


def entries(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the entries of a file from a place in it, each with the place behind it.

    A line half-written is not yet there; what was written after the file was sealed never is.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            end = _sealed_at(path)  # asked after the line was read: a file is sealed at any time
            if not line.endswith(b"\n") or (end is not None and offset > end):
                return
            yield json.loads(line), offset


def _sealed_at(path: Path) -> int | None:
    """How long a file was when it was sealed, if it was."""
    try:
        return int(path.with_suffix(".sealed").read_text())
    except FileNotFoundError:
        return None
