"""Work on many items side by side on all nodes of the Ray cluster."""

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from r2d2.errors import InputError, WorkFailed


def spread(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Yield what `work` makes of every item, as it comes; a task a CPU. Like `r2d2.data.parallel.spread`.

    Args:
        work: A function that can be pickled; what it reads and writes must be there on every node.
        items: What it is called with.

    Raises:
        InputError: As `work` raises it; if on another host, that one is named.
        WorkFailed: A worker process or its node died, or ran out of memory.
    """
    here = socket.gethostname()

    def one(item: Any) -> Any:
        try:
            return work(item)
        except InputError as error:
            if (there := socket.gethostname()) == here:
                raise
            raise InputError(f"on {there}: {error}") from None

    task = ray.remote(num_cpus=1, max_retries=0)(one)
    pending = [task.remote(item) for item in items]
    try:
        while pending:
            (ready,), pending = ray.wait(pending)
            try:
                result = ray.get(ready)
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:  # its process, its node or its memory is gone
                raise WorkFailed(
                    f"a process on the cluster was killed ({type(error).__name__}), most likely because memory ran "
                    "out; run it again, it goes on where it stopped"
                ) from None
            yield result
    finally:
        for rest in pending:
            ray.cancel(rest)
