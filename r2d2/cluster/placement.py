"""The Ray cluster that a run uses: somebody's, or a local one for this run alone."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from r2d2 import ENVIRONMENT, config, services
from r2d2.errors import InputError, WorkFailed
from r2d2.network import answers


@dataclass(frozen=True)
class Placement:
    """What a run takes of its cluster: workers, CPUs and GPUs for each."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    nodes: int


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


def _address(cluster: config.Cluster) -> str | None:
    address = cluster.address or os.environ.get("RAY_ADDRESS") or services.address("ray")
    return None if address in ("", "local") else address


def _connected(cluster: config.Cluster, address: str | None, environment: dict | None) -> Iterator[Placement]:
    try:
        ray.init(
            address=address or "local",  # and never one that happens to run on this machine
            num_cpus=None if address else len(os.sched_getaffinity(0)),
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=environment,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address is None:
            raise WorkFailed(f"Ray could not be started on this machine: {str(error).splitlines()[0]}") from error
        # Of versions that do not fit Ray tells in several lines.
        raise InputError(f"cluster.address {address}: no cluster for this client ({_line(error)})") from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield place(cluster, [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes])
    finally:
        ray.shutdown()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def place(cluster: config.Cluster, nodes: list[tuple[int, int | None]]) -> Placement:
    """The largest equal share of the nodes' (CPUs, GPUs) that every worker can have; GPUs None = not known yet."""

    def fits(cpus: int) -> int:
        return sum(
            min(have // cpus, gpus // cluster.gpus_per_worker)
            if cluster.gpus_per_worker and gpus is not None
            else have // cpus
            for have, gpus in nodes
        )

    smallest = cluster.cpus_per_worker or 1
    if fits(smallest) < cluster.workers:
        have = " + ".join(f"{cpus} CPUs" + (f", {gpus} GPUs" if gpus else "") for cpus, gpus in nodes)
        needs = f"{smallest} CPU" + (", 1 GPU" if cluster.gpus_per_worker else "")
        raise InputError(
            f"cluster.workers={cluster.workers} with {needs} each: the cluster has slots for {fits(smallest)} "
            f"(nodes: {have}); ask for fewer workers or add nodes"
        )
    largest = smallest
    while cluster.cpus_per_worker is None and fits(largest + 1) >= cluster.workers:
        largest += 1
    return Placement(cluster.workers, largest, cluster.gpus_per_worker, len(nodes))
