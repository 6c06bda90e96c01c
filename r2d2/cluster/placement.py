"""The Ray cluster that a run uses: somebody's, or a local one for this run alone."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray._private import ray_constants
from ray._private import services as ray_services
from ray._private.node import Node
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from r2d2 import ENVIRONMENT, config, services
from r2d2.console import say
from r2d2.errors import InputError, WorkFailed
from r2d2.network import answers, speaks_http

if TYPE_CHECKING:
    from ray.train import ScalingConfig

QUIET = {
    # Nobody reads what Ray measures of itself and of its tasks.
    "enable_metrics_collection": False,
    "event_stats": False,
    "debug_dump_period_milliseconds": 0,
    "task_events_report_interval_ms": 0,
    # There are a few long tasks; what is looked for ten times a second, once is enough.
    "raylet_check_gc_period_milliseconds": 1000,
    "memory_monitor_refresh_ms": 1000,
    "kill_idle_workers_interval_ms": 1000,
    "object_manager_timer_freq_ms": 1000,
    "local_fs_monitor_interval_ms": 10_000,
    "gcs_pull_resource_loads_period_milliseconds": 5000,
    # Processes for the trainer and its workers start while the driver is not yet ready for them, and wait.
    "preload_python_modules": ["ray.train.horovod", "r2d2.cluster.worker"],
    "idle_worker_killing_time_threshold_ms": 60_000,
}
"""Ray's settings in a cluster of one run's own, by the names of its `ray_config_def.h`."""
REPORTS, NEVER_MS = "REPORTER_UPDATE_INTERVAL_MS", str(24 * 3600 * 1000)
"""The variable that tells Ray's agent how often to look at all processes of the node, for a page that is not there."""
NEEDLESS = ("start_log_monitor", "start_api_server", "start_monitor")
"""What starts processes that such a cluster has no use for; Ray calls it whatever it is told."""
PRESTART = "--num_prestart_python_workers"
"""The option of Ray's raylet that says how many processes wait for work."""


@dataclass(frozen=True)
class Placement:
    """What a run takes of its cluster: workers, CPUs and GPUs for each."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    nodes: int

    def scaling(self) -> "ScalingConfig":
        """The same in Ray Train's words."""
        from ray.train import ScalingConfig

        return ScalingConfig(
            num_workers=self.workers,
            use_gpu=self.gpus_per_worker > 0,
            resources_per_worker={"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker},
            # The trainer itself only waits; a CPU for it would leave two workers on two cores waiting for ever.
            trainer_resources={"CPU": 0},
        )

    def fit(self, cpus: int, gpus: int) -> int:
        """How many of the workers a node with so many CPUs and GPUs can take."""
        return _fit(cpus, gpus, self.cpus_per_worker, self.gpus_per_worker)


@contextlib.contextmanager
def connected(cluster: config.Cluster) -> Iterator[Placement]:
    """Connect to the run's Ray cluster, or start a local one, and say what the run gets of it.

    Raises:
        InputError: No cluster at the address, or it has fewer slots than the experiment asks for.
    """
    address = _address(cluster)
    check(cluster)
    ours = address is not None and services.enter(address)
    if ours:
        read_switches_again()
    # Processes of a local cluster, and of `r2d2 up`, have this environment; a runtime one would start them later.
    environment = {"env_vars": {key: os.environ[key] for key in ENVIRONMENT}} if address and not ours else None
    # Ray tells of lost workers on standard output, which belongs to the command's answer.
    with contextlib.redirect_stdout(sys.stderr):
        yield from _connected(cluster, address, environment)


def side_by_side(cluster: config.Cluster, most: int, asked: int | None = None) -> tuple[Placement, int]:
    """What each of several rings takes of the connected cluster, and how many are trained at a time.

    Args:
        cluster: One ring's section.
        most: How many there are.
        asked: How many at a time; as many as there is room for if absent.

    Raises:
        InputError: There is no room for as many as were asked for.
    """
    nodes = _nodes()
    alone = {"workers": cluster.workers * (asked or 1), "min_workers": None}
    gpus = _gpus_each(cluster.model_copy(update=alone), nodes)
    room = _fits(nodes, cluster.cpus_per_worker or 1, gpus) // cluster.workers
    if asked is not None and asked > room:
        raise InputError(
            f"concurrent: {asked} trials of {cluster.workers} workers{', a GPU each' if gpus else ''}: the cluster has "
            f"room for {room} (nodes: {_told(nodes)}); ask for fewer or add nodes"
        )
    count = max(1, min(most, asked or room))
    # A worker's threads are the same whether its ring runs alone or at the end beside others.
    together = {"workers": count * cluster.workers, "min_workers": None, "gpus_per_worker": gpus}
    one = place(cluster.model_copy(update=together), nodes)
    return Placement(cluster.workers, one.cpus_per_worker, one.gpus_per_worker, one.nodes), count


def read_switches_again() -> None:
    """Have Ray see what `services.enter` has set; it read these variables when it was imported."""
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, True)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def check(cluster: config.Cluster) -> None:
    """Raise an InputError if it is plain before anything is started that the run's cluster cannot do."""
    address = _address(cluster)
    if address is None:
        place(cluster, [(len(os.sched_getaffinity(0)), None)])
    elif address != "auto" and not answers(address):
        raise InputError(
            f"cluster.address {address}: nothing answers there; start the cluster, or name the host:port of its head"
        )
    elif address != "auto" and speaks_http(address):
        raise InputError(
            f"cluster.address {address}: that is a page, which takes jobs (r2d2 submit); a run joins the host:port of "
            "the cluster's head, mostly HOST:6379"
        )


def _address(cluster: config.Cluster) -> str | None:
    address = cluster.address or os.environ.get("RAY_ADDRESS") or services.address("ray")
    return None if address in ("", "local") else address


def _connected(cluster: config.Cluster, address: str | None, environment: dict | None) -> Iterator[Placement]:
    try:
        if address is None:
            _start(cluster.workers + 1)
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address is None:
            raise WorkFailed(f"Ray could not be started on this machine: {str(error).splitlines()[0]}") from error
        # Of versions that do not fit Ray tells in several lines.
        told = " ".join(str(error).split())[:300]
        raise InputError(f"cluster.address {address}: no cluster for this client ({told})") from None
    try:
        placed = place(cluster, nodes := _nodes())
        if cluster.gpus_per_worker is None and not placed.gpus_per_worker and (gpus := sum(n or 0 for _, n in nodes)):
            say(f"{cluster.least} workers go without GPUs, for the cluster has {gpus}: it is one each, or none.")
        yield placed
    finally:
        ray.shutdown()


def _start(processes: int) -> None:
    """Start a cluster of our own on this machine, of as few processes as there can be, and connect to it.

    Args:
        processes: How many wait for the trainer and its workers; Ray would start one for each CPU.
    """
    start, cpus = ray_services.start_ray_process, len(os.sched_getaffinity(0))

    def started(command: list[str], *args: Any, **kwargs: Any) -> Any:
        words = [f"{PRESTART}={processes}" if word.startswith(PRESTART) else word for word in command]
        return start(words, *args, **kwargs)

    os.environ[REPORTS] = NEVER_MS
    try:
        with (
            _replaced(Node, **dict.fromkeys(NEEDLESS, lambda *_, **__: None)),
            _replaced(ray_services, start_ray_process=started),
        ):
            ray.init(
                "local",  # and never one that happens to run on this machine
                num_cpus=cpus,
                num_gpus=None if services.cuda() else 0,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _system_config=QUIET | {"worker_maximum_startup_concurrency": max(cpus, processes)},
            )
    finally:
        del os.environ[REPORTS]


@contextlib.contextmanager
def _replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Something of Ray's own with other attributes for a while: what it takes no setting for."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


Nodes = list[tuple[int, int | None]]
"""CPUs and GPUs of each node; GPUs None: not known yet."""


def _nodes() -> Nodes:
    """Of the connected cluster, those that are alive."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in found]


def _gpus_each(cluster: config.Cluster, nodes: Nodes) -> int:
    """The GPUs of a worker, where nothing is asked for by what the nodes have."""
    if cluster.gpus_per_worker is not None:
        return cluster.gpus_per_worker
    known: Nodes = [(cpus, gpus or 0) for cpus, gpus in nodes]
    return int(_fits(known, cluster.cpus_per_worker or 1, 1) >= cluster.least)


def _fits(nodes: Nodes, cpus: int, gpus: int) -> int:
    """How many workers of so many CPUs and GPUs each the nodes have room for."""
    return sum(_fit(have, have_gpus, cpus, gpus) for have, have_gpus in nodes)


def _fit(cpus: int, gpus: int | None, cpus_each: int, gpus_each: int) -> int:
    by_cpus = cpus // cpus_each
    return min(by_cpus, gpus // gpus_each) if gpus_each and gpus is not None else by_cpus


def _told(nodes: Nodes) -> str:
    return " + ".join(f"{cpus} CPUs" + (f", {gpus} GPUs" if gpus else "") for cpus, gpus in nodes)


def place(cluster: config.Cluster, nodes: Nodes) -> Placement:
    """The largest equal share of the nodes that every worker can have."""
    gpus = _gpus_each(cluster, nodes)

    def fits(cpus: int) -> int:
        return _fits(nodes, cpus, gpus)

    smallest = cluster.cpus_per_worker or 1
    workers = min(cluster.workers, fits(smallest))
    if workers < cluster.least:
        needs = f"{smallest} CPU" + (", 1 GPU" if gpus else "")
        raise InputError(
            f"cluster.{'min_' if cluster.min_workers else ''}workers={cluster.least} with {needs} each: the cluster "
            f"has slots for {workers} (nodes: {_told(nodes)}); ask for fewer workers or add nodes"
        )
    largest = smallest
    while cluster.cpus_per_worker is None and fits(largest + 1) >= workers:
        largest += 1
    return Placement(workers, largest, gpus, len(nodes))
