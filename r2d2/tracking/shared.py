"""Answers that many share: who asks the same question gets the same answer, and it is asked once at a time.

All viewers of one server look at the same runs. However many they are, a question goes to the store once in its time to
live; while it is on its way the others wait for it, or, where there is an answer already, not for long. When the store
does not answer, the last answer stays, with its age and the reason.
"""

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from r2d2.errors import InputError, WorkFailed

T = TypeVar("T")
PATIENCE_S = 0.25
"""How long one waits for a newer answer than the last."""
OLD_S, OLD_PATIENCE_S = 10.0, 3.0
"""How long past its time an answer is old, as one that was forgotten is at once; how long one waits for a newer one."""
FIRST_S = 20.0
"""How long one waits for the first."""
RETRY_S = 3.0
"""How soon a question is asked again that was not answered."""
MOST = 400
"""Answers that are kept; the longest unasked go first."""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What is known of a question.

    Attributes:
        value: The last answer.
        age_s: How long ago it was given.
        problem: Why there is no newer one, in a sentence; empty if all is well.
    """

    value: T
    age_s: float
    problem: str = ""

    @property
    def at(self) -> float:
        """When it was given, in seconds of the clock: who is silent since may only not have been asked."""
        return time.time() - self.age_s


class Refused(InputError):  # noqa: N818
    """The source has said that there is no answer, so that asking again is of no use."""


@dataclass
class _Known:
    """A question: its last answer and when it came (of a clock that only goes on), what is wrong, when to ask again."""

    value: Any = None
    at: float | None = None
    problem: str = ""
    refused: bool = False
    due: float = 0.0
    asking: "Future[None] | None" = None


class Shared:
    """Answers by question.

    Args:
        threads: How many questions are asked at a time.
    """

    def __init__(self, threads: int = 8) -> None:
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="asking")

    def ask(self, key: Hashable, question: Callable[[], T], live_s: float | Callable[[T], float]) -> Answer[T]:
        """The answer to a question, at most `live_s` old where its source answers in time.

        Answers are good until the next whole multiple of `live_s` on the clock: all who ask as often, ask at the same
        times, and one of them for all.

        Args:
            key: What the question is known by.
            question: Asks the source; raises a LookupError where there can be no answer any more.
            live_s: For how long its answer is good, or what says so of the answer.

        Raises:
            InputError: There is no answer at all, and why; `Refused` if the source says that there can be none.
        """
        with self._lock:
            known = self._known.setdefault(key, _Known())
            self._known.move_to_end(key)
            while len(self._known) > MOST:
                self._known.popitem(last=False)
            if known.asking is None and time.monotonic() >= known.due:
                known.asking = self._threads.submit(self._ask, known, question, live_s)
            asking, first = known.asking, known.at is None
            old = time.monotonic() - known.due > OLD_S and not known.problem
        if asking is not None:
            with contextlib.suppress(NotYet):
                asking.result(FIRST_S if first else OLD_PATIENCE_S if old else PATIENCE_S)
        with self._lock:
            if known.at is None or known.refused:
                problem = known.problem or "it does not answer yet; this page asks again"
                raise Refused(problem) if known.refused else InputError(problem)
            return Answer(known.value, time.monotonic() - known.at, known.problem)

    def forget(self, *keys: Hashable) -> None:
        """Ask these questions anew the next time, however fresh their answers are: something was changed."""
        with self._lock:
            for key in keys or [*self._known]:
                if key in self._known:
                    self._known[key].due = 0.0

    def _ask(self, known: _Known, question: Callable[[], Any], live_s: float | Callable[[Any], float]) -> None:
        began = time.monotonic()
        try:
            value = question()
        except Exception as error:
            with self._lock:
                # Of a source that is away the last answer stays; one that says there is no such thing is believed.
                known.refused = isinstance(error, LookupError)
                known.problem = sentence(error)
                known.due, known.asking = time.monotonic() + RETRY_S, None
            return
        with self._lock:
            known.value, known.at, known.problem, known.refused = value, time.monotonic(), "", False
            every = live_s(value) if callable(live_s) else live_s
            known.due, known.asking = (began // every + 1) * every, None


def sentence(error: Exception) -> str:
    """What an error says, for a person, in one line."""
    if isinstance(error, InputError | WorkFailed):
        return str(error)
    told = " ".join(str(error.args[0] if isinstance(error, LookupError) and error.args else error).split())
    return told[:300] or type(error).__name__
