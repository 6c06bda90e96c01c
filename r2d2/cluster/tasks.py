"""Work on many items side by side on all nodes of the Ray cluster."""

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from r2d2.errors import InputError, WorkFailed


def blind_hosts(storage: Path, data: Path | None) -> list[str]:
    """The nodes of the cluster that do not see a folder of this one's, or not the data, by their names.

    Args:
        storage: The folder. That others have one of its name is not enough: they must see a file that is made in it.
        data: A folder of which the name is enough; None if there is none.
    """
    storage.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=storage, prefix=".seen-") as made:
        wanted = [made.name, *([str(data)] if data else [])]
        asked = [
            ray.remote(num_cpus=0)(_blind)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(wanted)
            for node in ray.nodes()
            if node["Alive"]
        ]
        found: list[str | None] = []
        for one in asked:
            with contextlib.suppress(RayError):  # a node that is gone since is not missed
                found.append(ray.get(one))
    return sorted(host for host in found if host)


def _blind(paths: Sequence[str]) -> str | None:
    return None if all(Path(path).exists() for path in paths) else socket.gethostname()


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
