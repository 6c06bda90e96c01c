"""Cases side by side, a process a core, where there is enough to do for them."""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from r2d2.errors import WorkFailed

AHEAD = 4
"""For each process, how many items may be in work or done before the one whose turn it is."""
WORTH_S = 2.0
"""So long processes take to start and to import what they need: what is done sooner is done without them."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(work: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None) -> Iterator[Result]:
    """Yield what `work` makes of every item, in their order; only a few results wait for their turn.

    When the consumer stops early (an error, Ctrl-C), what has not begun is not begun any more.

    Args:
        work: A function that can be pickled.
        items: What it is called with.
        workers: How many processes; 1 works in this process. By default one for each CPU that this process may use, and
            none where the first two items show that all are done here before others would have started.

    Raises:
        WorkFailed: A process was killed.
    """
    if workers is None:
        workers, took = len(os.sched_getaffinity(0)), 0.0
        for item in items[:2]:  # the second as well: with the first, libraries may have been imported
            began = time.monotonic()
            result = work(item)
            took, items = time.monotonic() - began, items[1:]
            yield result
            if took > WORTH_S:
                break
        if took * len(items) * (1 - 1 / workers) < WORTH_S:
            workers = 1
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(work, items)
        return
    # Not fork: this process may have threads of TensorFlow, MLflow or Ray, whose locks a fork would copy.
    # Ctrl-C reaches the whole group of processes; it is for this one to stop the others.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise WorkFailed(
            f"one of {workers} processes was killed, most likely because memory ran out: give the machine fewer "
            "processors (taskset) or more memory; or, in a script of your own, because its work is not below "
            'if __name__ == "__main__":'
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
