"""The line between a run and its tracking server: what the outbox holds goes there, in order and once.

A server that does not answer is asked again; what it refuses for good is set aside and told. Where the delivery stands
is on the disk, so that another process can go on with it, also after the run's end.
"""

import contextlib
import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from r2d2.console import say
from r2d2.errors import InputError
from r2d2.files import whole_file
from r2d2.network import without_passwords
from r2d2.tracking import zoo
from r2d2.tracking.outbox import entries

EVERY_S = 1.0
"""How often the outbox is looked through."""
TAKE_OVER_S = 60.0
"""How long a driver may take to notice that another has taken its run over."""
MOST = 1000
"""Metrics that the server takes at a time; of tags it takes 100."""
STOP_TAG = "r2d2.stop"
"""When a run is to stop, one of `cluster.leaving.WHEN`, perhaps behind `pause `; `true`: now; `false`, as a run begins
with: nobody asks.

A wish that was heard is not taken back.
"""
STOP_BY_TAG, STOP_REASON_TAG = "r2d2.stop_by", "r2d2.stop_reason"


@dataclass
class Progress:
    """How far a run's delivery has come: the place in every file, what is there that goes there once, the model."""

    offsets: dict[str, int] = field(default_factory=dict)
    once: list[str] = field(default_factory=list)
    model: tuple[str, int] | None = None
    refused: int = 0


class Delivery:
    """Delivers the outbox of one run, in a thread of its own between `start` and `close`, or at once by `catch_up`.

    Args:
        client: Of the server.
        run_id: The run there.
        outbox: The folder.
        take_over: Whether to take the delivery over from a driver that is still at it.
        on_stop: Called whenever somebody tags the run with the wish that it stops: when, and who asks and why.

    Raises:
        InputError: Another process delivers this outbox.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        outbox: Path,
        take_over: bool = False,
        on_stop: Callable[[str, str], None] | None = None,
    ) -> None:
        self._client, self._run_id, self._outbox, self._on_stop = client, run_id, outbox, on_stop
        outbox.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(outbox / "lock", thread_local=False)
        self._owner = uuid.uuid4().hex
        if take_over:
            with whole_file(outbox / "owner") as beside:
                beside.write_text(self._owner)
        try:
            self._lock.acquire(timeout=TAKE_OVER_S if take_over else 0)
        except Timeout:
            raise InputError(f"run {run_id}: it goes on, and its driver delivers what it records") from None
        self._progress = _read_progress(outbox)
        self._told_away = False
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="delivery", daemon=True)

    @property
    def model(self) -> tuple[str, int] | None:
        """Name and version of the run's registered model, once it is registered."""
        return self._progress.model

    def catch_up(self) -> int:
        """Deliver all that waits, at once.

        Returns:
            How many entries were delivered.

        Raises:
            InputError: The server does not answer.
        """
        before, refused = waiting(self._outbox), self.refused
        try:
            self._pass()
        except _AWAY as error:
            raise InputError(
                f"{without_passwords(self._client.tracking_uri)}: it does not take the records ({_line(error)})"
            ) from None
        return before - waiting(self._outbox) - (self.refused - refused)

    @property
    def refused(self) -> int:
        """How many records the server has refused for good so far."""
        return self._progress.refused

    def start(self) -> None:
        """Begin to deliver whatever is written from now on."""
        self._thread.start()

    def close(self, patience_s: float = 0.0) -> int:
        """Deliver what there is, until nothing more has arrived for so long, and end.

        Returns:
            How many entries could not be delivered; 0 if another driver has taken over.
        """
        left, deadline = waiting(self._outbox), time.monotonic() + patience_s
        while self._thread.is_alive() and left and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.05)
            if (now := waiting(self._outbox)) < left:
                left, deadline = now, time.monotonic() + patience_s
        self._ending.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=max(1.0, deadline - time.monotonic()))
        self._lock.release()
        return 0 if self.taken_over else waiting(self._outbox)

    @property
    def taken_over(self) -> bool:
        """Whether another driver delivers this outbox now."""
        with contextlib.suppress(FileNotFoundError):
            return (self._outbox / "owner").read_text() != self._owner
        return False

    def _deliver(self) -> None:
        asked, told = 0.0, None
        while not self.taken_over:
            try:
                self._pass()
                if self._on_stop and time.monotonic() - asked >= 2 * EVERY_S:
                    asked = time.monotonic()
                    tags = self._client.get_run(self._run_id).data.tags
                    if (wish := stop_wish(tags)) and wish != told:
                        self._on_stop(*wish)
                        told = wish
                if self._told_away:
                    say("The tracking server is back; what waited has been delivered")
                    self._told_away = False
            except _AWAY as error:
                if not self._told_away:
                    say(f"The tracking server does not answer ({_line(error)}); training goes on, its records wait")
                    self._told_away = True
            if self._ending.is_set():
                return
            self._wake.wait(EVERY_S)
            self._wake.clear()
        self._lock.release()

    def _pass(self) -> None:
        """Deliver what every file holds now."""
        for path in sorted(self._outbox.glob("*.jsonl")):
            for some, behind in self._together(path):
                self._try(some)
                self._progress.offsets[path.name] = behind
                with whole_file(self._outbox / "progress.json") as beside:
                    beside.write_text(json.dumps(asdict(self._progress)))
                for entry in some:
                    if entry["kind"] == "file":
                        shutil.rmtree((self._outbox / entry["stored"]).parent, ignore_errors=True)

    def _try(self, some: list[dict[str, Any]]) -> None:
        """Carry out entries; where the server refuses one of several, each by itself."""
        try:
            self._carry_out(some)
        except MlflowException as error:
            if _is_away(error):
                raise
            if len(some) == 1:
                self._refused(some[0], error)
                return
            for entry in some:
                self._try([entry])

    def _together(self, path: Path) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Yield a file's new entries, metrics and tags that follow each other together, with the place behind them."""
        some: list[dict[str, Any]] = []
        size, behind = 0, self._progress.offsets.get(path.name, 0)
        for entry, after in entries(path, behind):
            alone = entry["kind"] not in ("metrics", "tags")
            more = len(entry.get("values", ()))
            # Tags count as ten: the server takes 1,000 metrics at a time, and 100 tags.
            more *= 10 if entry["kind"] == "tags" else 1
            if some and (alone or size + more > MOST):
                yield some, behind
                some, size = [], 0
            some.append(entry)
            size, behind = size + more, after
            if alone:
                yield some, behind
                some, size = [], 0
        if some:
            yield some, behind

    def _carry_out(self, some: list[dict[str, Any]]) -> None:
        first = some[0]
        if first["kind"] == "file":
            stored = self._outbox / first["stored"]
            if stored.exists():  # else it was delivered just before this process' predecessor died
                self._client.log_artifact(self._run_id, str(stored), first["folder"] or None)
        elif first["kind"] == "model":
            self._progress.model = zoo.register(
                self._client, Path(first["folder"]), first["name"], self._run_id, first["tags"]
            )
        elif first["kind"] == "end":
            self._client.set_terminated(self._run_id, first["status"], first["time"])
        elif first["kind"] == "forget":
            kept = {f"epoch {epoch}" for epoch in range(first["step"] + 1)}
            self._progress.once = [name for name in self._progress.once if name in kept or name[:6] != "epoch "]
        else:
            self._log(some)

    def _log(self, some: list[dict[str, Any]]) -> None:
        known, metrics, tags = [*self._progress.once], [], {}
        for entry in some:
            if entry["kind"] == "tags":
                tags.update(entry["values"])
            elif entry["once"] not in known:
                metrics += [Metric(key, value, entry["time"], entry["step"]) for key, value in entry["values"].items()]
                known += [entry["once"]] if entry["once"] else []
        if metrics or tags:
            self._client.log_batch(self._run_id, metrics=metrics, tags=[RunTag(key, tags[key]) for key in tags])
        self._progress.once = known

    def _refused(self, entry: dict[str, Any], error: MlflowException) -> None:
        """Set aside what the server will never take, so that the rest arrives."""
        with (self._outbox / "refused.log").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry | {"error": _line(error)}) + "\n")
        if not self._progress.refused:
            say(f"The tracking server refuses a record ({_line(error)}); such are kept in {file.name}")
        self._progress.refused += 1


def stop_wish(tags: Mapping[str, str]) -> tuple[str, str] | None:
    """When a run with these tags is to stop, and who asks and why, in words; None if nobody asks."""
    when = tags.get(STOP_TAG, "false")
    return None if when == "false" else ("now" if when == "true" else when, who_asked(tags))


def who_asked(tags: Mapping[str, str]) -> str:
    """Who has asked a run with these tags to stop, and why, in words; nothing if nobody did, or did not say."""
    by, why = tags.get(STOP_BY_TAG, ""), tags.get(STOP_REASON_TAG, "")
    return f"by {by}" * bool(by) + f": {why}" * bool(why)


def _is_away(error: Exception) -> bool:
    """Whether the server is away, overloaded, asks for another password, or the run is deleted: it may take it later.

    What it calls invalid it will never take.
    """
    invalid = isinstance(error, MlflowException) and error.get_http_status_code() == 400
    return not invalid or "must be in the 'active' state" in str(error)


_AWAY = (MlflowException, OSError, SQLAlchemyError)  # requests' errors are OSErrors


def waiting(outbox: Path) -> int:
    """How many entries of an outbox have not been delivered."""
    progress = _read_progress(outbox)
    return sum(1 for path in outbox.glob("*.jsonl") for _ in entries(path, progress.offsets.get(path.name, 0)))


def _read_progress(outbox: Path) -> Progress:
    with contextlib.suppress(FileNotFoundError):
        return Progress(**json.loads((outbox / "progress.json").read_text()))
    return Progress()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
