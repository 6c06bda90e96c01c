"""How a run is asked to leave, and why it left."""

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path

STOP = "stop"
"""The file in a run's folder by which its driver asks."""
TAGGED = "stopped"
"""What it begins with if somebody tagged the run; then one of WHEN, and in the next line who asks, and why."""
PAUSE = "pause"
"""Before one of WHEN: the run is to leave with its checkpoint alone, and somebody goes on with it later."""
WHEN = ("now", "epoch", "checkpoint")
"""When a run that is asked to stop leaves: after its present step, its present epoch, or its next checkpoint."""
EVERY_S = 0.2
GRACE_S = 3.0
"""How long Ray waits, unless it is told otherwise, from a stopped job's SIGTERM to its SIGKILL."""


@dataclass(frozen=True)
class Reason:
    """Why a training ended: in words, and whether there is time to evaluate, or nothing worth it."""

    text: str
    evaluate: bool = True
    failed: bool = False


TERMINATED, STOPPED, TIME_IS_UP, PAUSED = 1, 2, 3, 4
ASKED = {
    TERMINATED: Reason("terminated", evaluate=False),
    STOPPED: Reason("stopped on request"),
    TIME_IS_UP: Reason("training.max_minutes are over"),
    PAUSED: Reason("paused on request", evaluate=False),
}
"""What workers tell each other with a step, or at the end of a validation, by a number."""
WAITED = "asked to leave while it waited"
"""Why a run left that had no workers then."""


class StopAsked:
    """Looks, in a thread of its own, whether the driver asks the run to stop, and for what reason.

    Args:
        file: The driver's, which holds `stopped WHEN` if somebody tagged the run (`stopped pause WHEN`), or else the
            name of a signal.

    Attributes:
        wish: STOPPED, PAUSED or TERMINATED once it is asked, 0 before; and, of the first two, one of WHEN. The last
            counts, and TERMINATED for good.
        found: Set then.
    """

    def __init__(self, file: Path) -> None:
        self.wish, self.found = (0, "now"), threading.Event()
        self._file, self._closed = file, threading.Event()
        threading.Thread(target=self._look, name="stop", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _look(self) -> None:
        while self.wish[0] != TERMINATED and not self._closed.wait(EVERY_S):
            with contextlib.suppress(OSError):
                word, *told = self._file.read_text().partition("\n")[0].split() or [""]
                code = TERMINATED if word != TAGGED else PAUSED if PAUSE in told else STOPPED
                self.wish = code, next((when for when in WHEN if when in told), "now")
                self.found.set()
