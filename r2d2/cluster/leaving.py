"""How a run is asked to leave, and why it left."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STOP = "stop"
"""The file in a run's folder by which its driver asks."""


@dataclass(frozen=True)
class Reason:
    """Why a training ended: in words, and whether there is time to evaluate, or nothing worth it."""

    text: str
    evaluate: bool = True
    failed: bool = False


TERMINATED, STOPPED, TIME_IS_UP = 1, 2, 3
ASKED = {
    TERMINATED: Reason("terminated", evaluate=False),
    STOPPED: Reason("stopped on request"),
    TIME_IS_UP: Reason("training.max_minutes are over"),
}
"""What workers tell each other with a step, by a number."""


class StopAsked:
    """Looks, in a thread of its own, whether the run is asked to stop: by its driver's file, or by a tag of the run.

    Args:
        file: The driver's, looked for all the time.
        tag: Asks the run's server; it may take its time, or fail.
        every_s: How often that is done.

    Attributes:
        code: TERMINATED or STOPPED once it is asked, 0 before.
        found: Set then.
    """

    def __init__(self, file: Path, tag: Callable[[], bool], every_s: float = 2.0) -> None:
        self.code, self.found = 0, threading.Event()
        self._file, self._tag, self._every_s, self._closed = file, tag, every_s, threading.Event()
        threading.Thread(target=self._look, name="stop", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _look(self) -> None:
        asked = 0.0
        while not self._closed.wait(min(0.2, self._every_s)):
            if self._file.exists():
                self.code = TERMINATED
                self.found.set()
                return
            if self.code == 0 and time.monotonic() - asked >= self._every_s:
                with contextlib.suppress(Exception):  # a server that is away is asked again
                    self.code = STOPPED if self._tag() else 0
                asked = time.monotonic()
                if self.code:
                    self.found.set()
