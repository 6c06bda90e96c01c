"""One monitor a node of the cluster, for as long as a run goes on, and what the run costs."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from r2d2.cluster.placement import Placement
from r2d2.tracking.outbox import Outbox
from r2d2.tracking.system import Sampler

PATIENCE_S = 5.0
"""How long is waited for the nodes' answers; what comes later is heard the next time."""
COSTS = ("cpu_hours", "gpu_hours", "cpu_kwh", "gpu_kwh")


class Monitors:
    """Records every node's load as `system/NODE/...`, and what the run has cost so far as `cost/...`.

    The driver's own node is sampled by a thread here, every other by an actor that stays on it. The step is the time
    since the run was created, in seconds, so that a run that is started again goes on where it was. Energy is that of
    the nodes while the run lasted, whatever else they did, and is given only if every node can tell it.

    Args:
        every_s: How often; None for never, then only the hours are counted.
        outbox: Where it is written.
        began_s: When the run was created, in seconds of the clock.
        placement: What the run holds of the cluster.
        spent: `cost/...` of the run's earlier drivers.
    """

    def __init__(
        self,
        every_s: float | None,
        outbox: Outbox,
        began_s: float,
        placement: Placement,
        spent: Mapping[str, float],
    ) -> None:
        self._outbox, self._began_s, self._placement, self._spent = outbox, began_s, placement, spent
        self._held = (0.0, placement.workers, time.monotonic())  # worker-seconds before, workers since
        self._nodes: dict[str, _Node] = {}
        self._seen: list[_Node] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(every_s,), name="monitors", daemon=True)
        if every_s is not None:
            self._thread.start()

    def hold(self, workers: int) -> None:
        """The run holds so many workers from now on; before the first call, those of the placement."""
        self._held = (self._worker_s(), workers, time.monotonic())

    def close(self, dice: float | None = None) -> None:
        """Take a last sample, write down the costs, in all and a point of the test Dice (a hundredth), and end."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        costs = self._costs()
        self._log(
            costs | ({f"{name}_per_dice_point": value / (100 * dice) for name, value in costs.items()} if dice else {})
        )

    def _watch(self, every_s: float) -> None:
        ending = False
        while not ending:
            # A cluster that falls apart is told by the training; here its nodes are only not seen.
            with contextlib.suppress(RayError):
                self._look()
            ending = self._ended.wait(every_s)

    def _look(self) -> None:
        """Sample every node that is alive."""
        alive = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        hosts, own = Counter(alive.values()), ray.get_runtime_context().get_node_id()
        for identity, host in alive.items():
            if identity not in self._nodes:
                name = host if hosts[host] == 1 else f"{host}-{identity[:6]}"
                self._nodes[identity] = _Node(name, None if identity == own else identity)
                self._seen.append(self._nodes[identity])
        asked = [node.ask() for node in self._nodes.values()]
        ray.wait(asked, num_returns=len(asked), timeout=PATIENCE_S)
        load: dict[str, float] = {}
        for identity, node in [*self._nodes.items()]:
            try:
                load |= {f"system/{node.name}/{key}": value for key, value in node.answer().items()}
            except RayError:  # its monitor or the whole node is gone; if only the former, it gets a new one
                del self._nodes[identity]
        self._log(self._costs() | load)

    def _costs(self) -> dict[str, float]:
        hours, taken = self._worker_s() / 3600, self._placement
        found = {"cost/cpu_hours": hours * taken.cpus_per_worker}
        if taken.gpus_per_worker:
            found["cost/gpu_hours"] = hours * taken.gpus_per_worker
        for part in ("cpu", "gpu") if taken.gpus_per_worker else ("cpu",):
            told = [node.kwh.get(part) for node in self._seen]
            if told and None not in told:
                found[f"cost/{part}_kwh"] = sum(filter(None, told))
        # What an earlier driver could not tell has no sum.
        return {
            name: value + self._spent.get(name, 0.0)
            for name, value in found.items()
            if not self._spent or name in self._spent
        }

    def _worker_s(self) -> float:
        before, workers, since = self._held
        return before + workers * (time.monotonic() - since)

    def _log(self, metrics: Mapping[str, float]) -> None:
        self._outbox.log(metrics, step=int(time.time() - self._began_s))


class _Node:
    """A node of the cluster and its monitor: on another node an actor, here a plain object."""

    def __init__(self, name: str, identity: str | None) -> None:
        self.name = name
        self.kwh: dict[str, float] = {}
        self._asked: Any = None
        self._here: Sampler | None = None
        self._there: Any = None
        if identity is None:
            self._here = Sampler()
        else:
            there = NodeAffinitySchedulingStrategy(identity, soft=False)
            actor: Any = ray.remote(num_cpus=0)(_Monitor)
            self._there = actor.options(scheduling_strategy=there).remote()

    def ask(self) -> Any:
        """What `ray.wait` takes: the answer that will come."""
        if self._asked is None:
            self._asked = self._there.sample.remote() if self._there else ray.put(_sample(self._here))
        return self._asked

    def answer(self) -> dict[str, float]:
        """The load that was asked for; nothing if the answer has not come yet."""
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return {}
        asked, self._asked = self._asked, None
        load, self.kwh = ray.get(asked)
        return load


class _Monitor:
    def __init__(self) -> None:
        self._sampler = Sampler()

    def sample(self) -> tuple[dict[str, float], dict[str, float]]:
        return _sample(self._sampler)


def _sample(sampler: Any) -> tuple[dict[str, float], dict[str, float]]:
    return sampler.sample(), sampler.kwh()
