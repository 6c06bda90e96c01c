"""How many workers the cluster has room for at the moment, and the wait until it has room for enough."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from r2d2 import config
from r2d2.cluster.placement import Placement

LOOK_S = 1.0
"""How often the cluster is looked at."""
ANSWER_S = 5.0
"""How soon a node answers that is well. Of one that was cut off the cluster learns only after its health checks."""
SETTLE_S = 10.0
"""How long it may take until the cluster has back what lost workers held."""


class SlotsMissing(RuntimeError):  # noqa: N818
    """The cluster has lacked slots for longer than the run waits."""


@dataclass(frozen=True)
class Slots:
    """How many workers fit on the nodes that answer: in `all`, and in what nobody holds; `settled` once all answer."""

    all: int
    free: int
    settled: bool


def total(placement: Placement) -> int:
    """How many workers fit on the nodes that the cluster takes for alive, if they hold nothing else."""
    return sum(_fit(placement, node["Resources"]) for node in ray.nodes() if node["Alive"])


def look(placement: Placement) -> Slots:
    """The slots for workers like these, on the nodes that answer."""
    nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    answering, free = _answering(list(nodes)), available_resources_per_node()
    return Slots(
        sum(_fit(placement, nodes[identity]) for identity in answering),
        sum(_fit(placement, free.get(identity, {})) for identity in answering),
        len(answering) == len(nodes),
    )


def wait(
    cluster: config.Cluster, placement: Placement, on_wait: Callable[[str], None], leave: Callable[[], bool]
) -> Placement | None:
    """Wait until the cluster has slots for all of a run's workers, or, once its state is clear, for enough of them.

    Slots that others hold come free some day: for these Ray waits. Those that no node has are waited for here.

    Args:
        cluster: How many workers the run wants, and how few it goes on with.
        placement: What each of them takes.
        on_wait: Told once what is waited for, and once, by an empty text, that the wait is over.
        leave: Asked whether to wait no more.

    Returns:
        The placement with the number of workers to go on with; None if it was to leave.

    Raises:
        SlotsMissing: `cluster.wait_minutes` were over.
    """
    began = enough_at = time.monotonic()
    told = ""
    while not leave():
        slots, now = look(placement), time.monotonic()
        settled = slots.settled and (slots.free == slots.all or now - began >= SETTLE_S)
        if slots.free >= cluster.workers or (settled and slots.all >= cluster.least):
            if told:
                on_wait("")
            return replace(placement, workers=max(cluster.least, min(slots.free, cluster.workers)))
        if slots.all >= cluster.least:
            enough_at = now
        elif now - enough_at >= 60 * cluster.wait_minutes:
            raise SlotsMissing(f"waited {cluster.wait_minutes:g} minutes {told}")
        elif not told:
            told = f"for slots: the run needs {cluster.least}, the cluster has {slots.all}"
            on_wait(told)
        time.sleep(LOOK_S)
    return None


def _fit(placement: Placement, resources: dict[str, float]) -> int:
    return placement.fit(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))


def _answering(nodes: list[str]) -> list[str]:
    """Those of the nodes that do what they are asked, soon."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_nothing)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(): node
        for node in nodes
    }
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    for one in late:
        ray.cancel(one, force=True)
    found = []
    for one in ready:
        with contextlib.suppress(RayError):  # the node is gone since
            ray.get(one)
            found.append(asked[one])
    return found


def _nothing() -> None:
    pass
