"""What people watch while others work: the nodes' load over the last minutes, Ray's jobs, runs that are in trouble.

All viewers of one process share what is asked; see `r2d2.tracking.shared`.
"""

import contextlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2d2 import services
from r2d2.errors import InputError
from r2d2.tracking.shared import Answer, Shared, sentence

if TYPE_CHECKING:
    from r2d2.engine.jobs import JobRow
    from r2d2.tracking.queries import RunView
    from r2d2.training.state import Seconds

EVERY_S = 5.0
"""How often nodes are looked at."""
LATE_S = 15.0
"""So old may be what they said, without a word about it."""
KEPT = 60
"""Looks that are kept: five minutes."""
UNWATCHED_S = 600.0
"""After so long without a viewer nobody looks."""
JOBS_S = 4.0
STALLED_S = 120.0
"""The shortest silence of a run that is worth a word."""
_shared = Shared(4)


@dataclass(frozen=True)
class Load:
    """A node's load at a time of the clock; None is what it cannot tell.

    Attributes:
        at: When, in seconds of the clock.
        cpu, memory, disk: In percent; of the disk how full it is.
        gpu, gpu_memory: In percent, the mean over its GPUs.
        disk_mb_s, network_mb_s: Read and written, received and sent, together.
    """

    at: float
    cpu: float | None = None
    memory: float | None = None
    disk: float | None = None
    gpu: float | None = None
    gpu_memory: float | None = None
    disk_mb_s: float | None = None
    network_mb_s: float | None = None


@dataclass(frozen=True)
class Node:
    """A node of the cluster, or this machine: its name, what it is in words, whether it is there, its last minutes."""

    name: str
    about: str
    alive: bool
    loads: tuple[Load, ...]


@dataclass(frozen=True)
class Trouble:
    """Something about a run that a person should know: `diverging`, `stalled`, `waiting` or `slow`, and a sentence."""

    run: "RunView"
    kind: str
    text: str


def clustered() -> bool:
    """Whether there is meant to be a Ray cluster to look at."""
    named = any(os.environ.get(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    return named or "ray" in services.read()


def nodes() -> Answer[list[Node]]:
    """The nodes of the Ray cluster, or, without one, this machine, with their last minutes.

    The first one who asks starts a thread that looks every few seconds; it ends when nobody has asked for a while.

    Raises:
        InputError: The cluster does not answer, and never did.
    """
    return _watch.answer()


def jobs() -> "Answer[list[JobRow]]":
    """The cluster's jobs, the latest first.

    Raises:
        InputError: There is no cluster, or it does not answer and never did.
    """

    def question() -> "list[JobRow]":
        from r2d2.engine.jobs import jobs as ask

        return ask()

    return _shared.ask("jobs", question, JOBS_S)


def job_log(name: str) -> Answer[str]:
    """What a job has printed so far.

    Raises:
        InputError: There is no such job, or no cluster.
    """

    def question() -> str:
        from r2d2.cluster.jobs import Cluster

        return Cluster().log(name)

    return _shared.ask(("log", name), question, JOBS_S)


def troubles(runs: "Iterable[RunView]", now: float | None = None) -> list[Trouble]:
    """What is wrong with runs that go on, the worst first."""
    now = time.time() if now is None else now
    found: list[Trouble] = []
    for run in runs:
        # What somebody else wrote onto one run takes the others' away from nobody.
        with contextlib.suppress(InputError, ValueError, TypeError, LookupError):
            for one in _troubles(run, now) if run.running else ():
                found.append(one)
    order = ("diverging", "stalled", "waiting", "slow")
    return sorted(found, key=lambda one: order.index(one.kind))


def verdict(run: "RunView") -> str:
    """What limits a run's speed, in words: as it was found at its end, or from its last epoch; empty if unknown."""
    from r2d2.training.verdict import verdict as judge

    if not run.running and "verdict" in run.tags:
        return run.tags["verdict"]
    seconds = _last_epoch(run)
    return judge(seconds) if seconds else ""


def _last_epoch(run: "RunView") -> "Seconds | None":
    """Where the time of its last epoch went; None if none is over."""
    from r2d2.training.state import Seconds

    parts = [run.metric(f"time/{name}_s") for name in ("input", "compute", "communication")]
    return None if None in parts else Seconds(*(part or 0.0 for part in parts))


def _troubles(run: "RunView", now: float) -> Iterable[Trouble]:
    from r2d2.training.verdict import loss

    went_back = [run.tags[name] for name in sorted(run.tags) if name.startswith("sentinel.")]
    if went_back:
        times = f"{len(went_back)} times" if len(went_back) > 1 else "once"
        yield Trouble(run, "diverging", f"It fell apart {times}: {went_back[-1]}.")
    silent = _silent(run, now)
    # Who waits trains nothing, but is heard of all the same.
    if (waits := run.tags.get("waiting")) and (silent is None or silent[0] != "it"):
        yield Trouble(run, "waiting", f"It waits {waits}.")
        return
    if silent is not None:
        yield Trouble(
            run,
            "stalled",
            f"Nothing has been heard of {silent[0]} for {silent[1] / 60:.0f} min: its driver or a host may be gone.",
        )
    elif (seconds := _last_epoch(run)) and loss(seconds) == "input":
        yield Trouble(run, "slow", verdict(run))


def _silent(run: "RunView", now: float) -> tuple[str, float] | None:
    """Of what nothing has been heard for longer than it can be expected to take, and for how many seconds."""
    if run.kind == "scale":
        return _silent_study(run, now)
    restart, loss = run.latest.get("time/restart"), run.latest.get("train/loss")
    # An earlier driver, or workers that were lost, say nothing of the present ones.
    since = max(run.began, float(run.tags.get("since", 0)), restart.at if restart else 0.0)
    epoch_s = (run.metric("time/epoch_s") or 0.0) + (run.metric("time/validation_s") or 0.0)
    patience = STALLED_S + 5 * epoch_s + 3 * run.number("tracking.monitor_s")
    # Nodes are heard of all the time; of trials, and of what a study trains beside others, the whole watches them.
    watched = run.number("tracking.monitor_s") > 0
    watched = watched and (run.parent is None or any(name.startswith("system/") for name in run.latest))
    if watched and now - max(run.heard, since) > patience:
        return "it", now - max(run.heard, since)
    if loss is None or not epoch_s:  # until its first epoch is over nobody knows how long one takes
        return None
    since = max(loss.at, since)
    # A validation or the test has so many slices, which take no longer each than an image of the training.
    at, slices = map(float, run.tags.get("evaluating", "0 0").split())
    if at > since:
        since, patience = at, patience + 5 * slices / (run.metric("time/images_per_s") or 1.0)
    return ("its training", now - since) if now - since > patience else None


def _silent_study(run: "RunView", now: float) -> tuple[str, float] | None:
    """The same of a scaling study, which says nothing itself until its report."""
    from r2d2.tracking import queries

    parts = queries.parts(run).value
    if not parts:
        return None
    newest = max(parts, key=lambda part: part.began)
    if newest.running:
        return _silent(newest, now)
    # Its next one begins, or its report is written.
    silence = now - max(newest.ended or newest.heard, float(run.tags.get("since", 0)))
    took = (newest.ended or newest.heard) - newest.began
    return ("its next run", silence) if silence > STALLED_S + took else None


class _Watch:
    """Looks at the nodes in a thread of its own, as long as somebody wants to know."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked = threading.Event()
        self._loads: dict[str, deque[Load]] = {}
        self._nodes: list[Node] = []
        self._asked = self._answered = 0.0
        self._problem = ""
        self._thread: threading.Thread | None = None

    def answer(self) -> Answer[list[Node]]:
        with self._lock:
            self._asked = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)
                self._thread.start()
        self._looked.wait(10.0)
        with self._lock:
            if not self._nodes:
                raise InputError(self._problem or "the nodes do not answer yet; this page asks again")
            age_s = time.monotonic() - self._answered
            return Answer(self._nodes, age_s, self._problem or ("the nodes do not answer" if age_s > LATE_S else ""))

    def _watch(self) -> None:
        look = _looker()
        while True:
            began, problem = time.monotonic(), ""
            try:
                seen = look()
            except Exception as error:  # whatever it is, it is looked again
                problem, look = sentence(error), _looker()
                seen = None
            with self._lock:
                self._problem = problem
                if seen is not None:
                    self._answered = time.monotonic()
                    for name, _, _, load in seen:
                        if load is not None:
                            self._loads.setdefault(name, deque(maxlen=KEPT)).append(load)
                    self._nodes = [
                        Node(name, about, alive, tuple(self._loads.get(name, ())))
                        for name, about, alive, _ in sorted(seen, key=lambda one: one[0])
                    ]
                self._looked.set()
                if began - self._asked > UNWATCHED_S:
                    self._thread = None
                    self._loads = {}
                    return
            time.sleep(max(0.5, EVERY_S - (time.monotonic() - began)))


_watch = _Watch()
Seen = tuple[str, str, bool, Load | None]
"""Of a node its name, what it is, whether it lives, its load."""


def _looker() -> Callable[[], Sequence[Seen]]:
    """What looks at the cluster's nodes if there is one, else at this machine."""
    kept: list[Any] = []

    def look() -> Sequence[Seen]:
        cluster = clustered()
        if not kept or kept[0] != cluster:
            kept[:] = [cluster, _cluster() if cluster else _here()]
        return kept[1]()

    return look


def _here() -> Callable[[], Sequence[Seen]]:
    from r2d2.tracking.system import Sampler

    sampler, cpus = Sampler(), len(os.sched_getaffinity(0))
    about = f"this machine, {cpus} CPU{'s' if cpus != 1 else ''}"
    time.sleep(0.2)  # rates are since the last look

    def look() -> Sequence[Seen]:
        told = sampler.sample()
        gpus = [
            value
            for name, value in told.items()
            if name.startswith("gpu_") and name.endswith("_utilization_percentage")
        ]
        held = [
            value for name, value in told.items() if name.endswith("_memory_usage_percentage") and name[:4] == "gpu_"
        ]

        def both(first: str, second: str) -> float | None:
            found = [
                told[f"{name}_megabytes_per_second"]
                for name in (first, second)
                if f"{name}_megabytes_per_second" in told
            ]
            return sum(found) if found else None

        load = Load(
            at=time.time(),
            cpu=told["cpu_utilization_percentage"],
            memory=told["system_memory_usage_percentage"],
            disk=told["disk_usage_percentage"],
            gpu=_mean(gpus),
            gpu_memory=_mean(held),
            disk_mb_s=both("disk_read", "disk_write"),
            network_mb_s=both("network_receive", "network_transmit"),
        )
        return [(socket.gethostname(), about, True, load)]

    return look


def _cluster() -> Callable[[], Sequence[Seen]]:
    from r2d2.cluster.jobs import Cluster

    cluster = Cluster()
    return lambda: [_seen(node) for node in cluster.nodes()]


def _seen(node: Mapping[str, Any]) -> Seen:
    """A node as Ray's own pages are told of it."""
    raylet = node.get("raylet", {})
    total = raylet.get("resourcesTotal", {})
    parts = [f"{total[kind]:g} {kind}{'s' if total[kind] != 1 else ''}" for kind in ("CPU", "GPU") if total.get(kind)]
    about = ", ".join([*parts, *(["head"] if raylet.get("isHeadNode") else [])])
    alive = raylet.get("state", "ALIVE") == "ALIVE"
    name = f"{node.get('hostname') or raylet.get('nodeManagerHostname', '?')} ({node.get('ip', '?')})"
    if not alive or "cpu" not in node:
        return name, about, alive, None
    gpus, mega = node.get("gpus") or [], 1e6
    disk, speed = node.get("disk", {}).get("/", {}), node.get("diskIoSpeed") or []
    load = Load(
        at=time.time(),
        cpu=float(node["cpu"]),
        memory=float(node["mem"][2]),
        disk=disk.get("percent"),
        gpu=_mean([one["utilizationGpu"] for one in gpus if one.get("utilizationGpu") is not None]),
        gpu_memory=_mean([100 * one["memoryUsed"] / one["memoryTotal"] for one in gpus if one.get("memoryTotal")]),
        disk_mb_s=sum(speed[:2]) / mega if speed else None,
        network_mb_s=sum(node["networkSpeed"]) / mega if node.get("networkSpeed") else None,
    )
    return name, about, alive, load


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
