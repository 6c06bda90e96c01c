"""A desk for what takes long: the dashboard hands in errands, which are done one after another by a process beside it.

The process keeps TensorFlow, its memory and its GPU out of the server, is ended by nothing that a scan may do to it but
itself, and leaves after `IDLE_S` without an errand. It is asked by a line of JSON on its standard input,

    {"verb": "predict", "model": "lesion/3", "scan": ["/tmp/r2d2-upload-x/scan.nii"], "output": ...}

and answers with lines: `{"what": "Predicting", "done": 3, "total": 48}`, then `{"result": ...}` or `{"error": ...}`.
"""

import json
import os
import queue
import re
import select
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from r2d2.errors import InputError, WorkFailed

IDLE_S = 600.0
"""How long the process waits for an errand: it holds a network, and a GPU's memory."""
MOST_WAITING = 8
"""Errands in a queue: each may hold a scan in memory."""
PUBLIC = (InputError, WorkFailed)


class Ask(Protocol):
    """Has the process beside do a verb of `VERBS` and returns its result."""

    def __call__(self, verb: str, **arguments: Any) -> Any:
        """As `VERBS[verb](**arguments)`; its InputError or WorkFailed is raised here."""


class Errand:
    """Something that was handed in.

    Who handed it in keeps it: if nobody does any more before its turn comes, it is dropped with all that it holds,
    unless its desk keeps it, too.

    Attributes:
        what, done, total: What it counts, how much is done, and of how much; 0 of 0 as long as it does not say.
        error: Why it failed, in a sentence; empty if it did not.
        result: What it made, once it is over and did not fail.
    """

    def __init__(self, desk: "Desk", work: Callable[[Ask], Any]) -> None:
        self.what, self.done, self.total = "", 0, 0
        self.error, self.result = "", None
        self._desk, self._work, self._over = desk, work, threading.Event()

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self._over.is_set()

    @property
    def ahead(self) -> int:
        """How many others are done before it; 0 if it is in work."""
        return self._desk.before(self)

    def wait(self, seconds: float) -> bool:
        """Wait for its end, so long at most; whether it is over."""
        return self._over.wait(seconds)

    def do(self, ask: Ask) -> None:
        """Do it; whatever it held is let go."""
        try:
            self.result = self._work(ask)
        except PUBLIC as error:
            self.error = str(error)
        except Exception:
            traceback.print_exc()
            self.error = "It failed for a reason that is not yours; the server's log has it."
        finally:
            del self._work
            self._over.set()


class Desk:
    """A queue of errands, a thread that sees to them in turn, and the process that does the work.

    Args:
        keeps: Whether it does what was handed in also where nobody waits for it any more.
        most: How many errands may wait.
    """

    def __init__(self, keeps: bool = False, most: int = MOST_WAITING) -> None:
        self._keeps, self._most = keeps, most
        self._waiting: list[Callable[[], Errand | None]] = []
        self._current: weakref.ref[Errand] | None = None
        self._lock, self._bell = threading.Lock(), queue.SimpleQueue[None]()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None

    def hand_in(self, work: Callable[[Ask], Any]) -> Errand:
        """Have something done, in its turn.

        Args:
            work: Is called by the desk's thread with what asks the process beside.

        Raises:
            WorkFailed: So many wait already that there is no room for more.
        """
        errand = Errand(self, work)
        with self._lock:
            self._waiting = [one for one in self._waiting if one() is not None]
            if len(self._waiting) >= self._most:
                raise WorkFailed(f"{len(self._waiting)} others wait already; try again in a few minutes")
            self._waiting.append((lambda: errand) if self._keeps else weakref.ref(errand))
            if self._thread is None:
                self._thread = threading.Thread(target=self._see_to_them, name="desk", daemon=True)
                self._thread.start()
        self._bell.put(None)
        return errand

    def before(self, errand: Errand) -> int:
        """How many errands are done before this one."""
        with self._lock:
            living = [one() for one in self._waiting]
            if errand not in living:
                return 0
            current = self._current() if self._current else None
            return sum(one is not None for one in living[: living.index(errand)]) + (current is not None)

    def close(self) -> None:
        """End the process beside, whatever it does."""
        if self._process is not None:
            self._process.kill()
            with self._process:  # closes its pipes
                self._process = None

    def _see_to_them(self) -> None:
        while True:
            self._bell.get()
            with self._lock:
                errand = self._waiting.pop(0)() if self._waiting else None
                self._current = weakref.ref(errand) if errand else None
            if errand is not None:
                errand.do(lambda verb, errand=errand, **arguments: self._ask(errand, verb, **arguments))
                with self._lock:
                    self._current = None
                del errand  # so that who handed it in alone holds it

    def _ask(self, errand: Errand, verb: str, **arguments: Any) -> Any:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"verb": verb, **arguments}, default=str) + "\n")
            process.stdin.flush()
        except BrokenPipeError:  # it left a moment ago, having waited long enough
            process.wait()
            return self._ask(errand, verb, **arguments)
        for line in process.stdout:
            told = json.loads(line)
            if "error" in told:
                raise (InputError if told["input"] else WorkFailed)(told["error"])
            if "result" in told:
                return told["result"]
            errand.what, errand.done, errand.total = told["what"], told["done"], told["total"]
        if process.wait() == 0:  # it left just as it was asked
            return self._ask(errand, verb, **arguments)
        raise WorkFailed("The process that computes was ended in the middle, most likely because memory ran out.")

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            command = [sys.executable, "-m", "r2d2.engine.desk"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self._process


def predict(model: str, scan: list[str], output: str) -> dict[str, Any]:
    """Segment a scan; the model of the last time is still there. See `engine.predict.predict`."""
    from r2d2 import imgmed

    paths, work = [Path(path) for path in scan], _work(model)
    made = work.segment(imgmed.read_channels(paths), paths, Path(output), None, shown=True)
    warnings = [line.removeprefix(f"{paths[0]}: ") for line in made.warnings]
    return {"classes": work.classes, "volumes_ml": made.volumes_ml, "warnings": warnings}


def judge(name: str, version: int, alias: str) -> dict[str, Any]:
    """The evidence for or against a promotion. See `engine.promote.judge`."""
    from r2d2.engine import promote

    return promote.judge(name, version, alias)


def check(path: str, labels: str | None = None) -> dict[str, Any]:
    """What `engine.data.check` finds, without the PatientIDs that DICOM headers hold."""
    from r2d2.engine import data

    data.listed(path, labels)  # a folder of this machine
    found = asdict(data.check(path, labels))
    for kind in ("errors", "warnings"):
        found[kind] = [re.sub(r"the PatientID (['\"]).*?\1(?=,| of )", "the PatientID", told) for told in found[kind]]
    del found["text"]
    return found


VERBS: dict[str, Callable[..., Any]] = {"predict": predict, "judge": judge, "check": check}


@lru_cache(maxsize=1)
def _work(model: str) -> Any:
    from r2d2.engine.predict import Work

    return Work(model, flips=False, planes=False, largest=(), strict=False)


def main() -> None:
    """The process beside: verb after verb until nobody asks any more, or for long."""
    from r2d2.console import watched

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**told: Any) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    with watched(lambda what, done, total: answer(what=what, done=done, total=total)):
        while select.select([0], [], [], IDLE_S)[0] and (line := sys.stdin.buffer.readline()):
            asked = json.loads(line)
            try:
                answer(result=VERBS[asked.pop("verb")](**asked))
            except PUBLIC as error:
                answer(error=str(error), input=isinstance(error, InputError))
            except Exception:
                traceback.print_exc()
                answer(error="It failed for a reason that is not yours; the server's log has it.", input=False)


if __name__ == "__main__":
    main()
