"""Rings of hosts on one machine: network namespaces with a link each, and the same share of a processor each.

Hosts are laid out by infra/several_hosts.sh (root, iproute2); their shares need the processor controller of cgroup v1
at /sys/fs/cgroup/cpu. A host's share is a quota of the kernel's, in periods of 4 ms, and the weight to have it whatever
else runs.
"""

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HOSTS = Path(__file__).parents[2] / "infra" / "several_hosts.sh"
OUTSIDE = "10.77.0.254"
"""This machine, as hosts that are its network namespaces see it."""
GROUPS = Path("/sys/fs/cgroup/cpu")
LOCK = "/var/tmp/r2d2-hosts.lock"
"""Held as long as the hosts are there, as by the tests: their names exist once on a machine."""
PERIOD_US, WEIGHT = 4000, 262_144
WARM_UP = 3
Block = list[list[tuple[float, float]]]
"""Of each host its steps of one turn: the seconds, and the communication."""


def refused() -> str:
    """Why no hosts can be made here; empty if they can."""
    if os.getuid() != 0:
        return "hosts are made by root"
    if not (GROUPS / "cpu.cfs_quota_us").exists():
        return f"hosts' shares of a processor need cgroup v1's controller at {GROUPS}, which is not there"
    return ""


def rendezvous(hosts: Sequence[int]) -> tuple[Any, list[dict[str, str]]]:
    """The server, started, that a ring of so numbered hosts meets at, and each one's environment; to be stopped."""
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousServer

    server = RendezvousServer(verbose=0)
    port = server.start()
    plan = get_host_assignments(parse_hosts(",".join(f"node{i}:1" for i in hosts)), len(hosts))
    server.init(plan)
    about = {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": OUTSIDE,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": "eth0",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    keys = ("rank", "size", "local_rank", "local_size", "cross_rank", "cross_size")
    each = [
        os.environ
        | about
        | {"HOROVOD_HOSTNAME": f"node{i}"}
        | {f"HOROVOD_{key.upper()}": str(getattr(slot, key)) for key in keys}
        for i, slot in zip(hosts, plan, strict=True)
    ]
    return server, each


class Alone:
    """A ring of one, whoever else is there: what `Step` asks of it."""

    @staticmethod
    def sum_gradients(gradients):
        """The gradients themselves."""
        return [*gradients]

    @staticmethod
    def sum_tensor(tensor, name):  # noqa: ARG004
        """The tensor itself."""
        return tensor


def train_in_turn(network: Callable[[], Any], batch: int, classes: int, ways: Mapping[str, Mapping[str, Any]]) -> None:
    """One host: answers `WAY STEPS` on its input with the seconds and the communication of each step.

    It trains on images of random numbers, in bfloat16 by SGD. The way `alone` is by itself. First it tells how many
    bytes its gradients have.

    Args:
        network: Makes the plain model.
        batch: Images of a minibatch.
        classes: Of the labels.
        ways: The ring's settings, by name. Fusion and cycle are those of the first: Horovod takes them once a process.
    """
    from r2d2 import config
    from r2d2.training import device

    device.limit_threads(1)
    import keras
    import numpy as np
    import tensorflow as tf

    from r2d2.models.losses import dice_cross_entropy
    from r2d2.models.precision import with_precision
    from r2d2.training import optimizers
    from r2d2.training.ring import Ring
    from r2d2.training.step import Step

    settings = {way: config.Ring(**of) for way, of in ways.items()}
    ring = Ring(next(iter(settings.values())))
    keras.utils.set_random_seed(0)
    model = with_precision(network(), "bfloat16")
    optimizer = optimizers.build(config.Training())
    optimizer.build(model.trainable_variables)
    seeds = [(v, int(v.numpy()[0])) for v in model.variables if v.name == "seed_generator_state"]
    ring.broadcast(model.variables)
    rng = np.random.default_rng(ring.rank)
    images = tf.constant(rng.normal(size=(batch, *model.input_shape[1:])), tf.float32)
    labels = tf.constant(rng.integers(0, classes, (batch, *model.input_shape[1:3])), tf.uint8)

    def step(joined, size, number):
        weights = model.trainable_variables
        return Step(model, weights, optimizer, dice_cross_entropy, seeds, batch, [number], size, joined)

    steps = {"alone": step(Alone(), 1, 0)}
    for way, of in settings.items():
        joined = copy.copy(ring)
        joined._settings = of
        steps[way] = step(joined, ring.size, ring.rank)
    for one in steps.values():
        for number in range(WARM_UP):
            one(images, labels, number, 1e-3)
    print(json.dumps({"bytes": 4 * sum(int(np.prod(v.shape)) for v in model.trainable_variables)}), flush=True)
    for line in sys.stdin:
        way, count = line.rsplit(maxsplit=1)
        taken = []
        for number in range(int(count)):
            began = time.perf_counter()
            told = steps[way](images, labels, number, 1e-3)
            taken.append((time.perf_counter() - began, told.communication_s))
        print(json.dumps(taken), flush=True)
    ring.close()


class Layout:
    """So many hosts in a ring, each in a group of its own share of a core; to be used in a `with`.

    Args:
        hosts: How many.
        quota: Of a core, which each of them has.
        command: What each runs: something that ends with `train_in_turn`.
    """

    def __init__(self, hosts: int, quota: float, command: Sequence[str | Path]) -> None:
        from filelock import FileLock

        self.hosts, self.quota, self.command, self.lock = hosts, quota, command, FileLock(LOCK)

    def __enter__(self) -> "Layout":
        self.lock.acquire()
        subprocess.run([HOSTS, "up", str(self.hosts), "40gbit"], check=True)
        self.processes: list[subprocess.Popen] = []
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self.server, environments = rendezvous(range(self.hosts))
        cores = sorted(os.sched_getaffinity(0))
        for i, environment in enumerate(environments):
            command = [HOSTS, "run", str(i), "taskset", "-c", str(cores[i % len(cores)]), *self.command]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.processes.append(subprocess.Popen(command, text=True, env=environment, **pipes))
            group = GROUPS / f"r2d2-host{i}"
            group.mkdir(exist_ok=True)
            # No quota before they are ready: their start would take as many times as long.
            for file, value in (("quota_us", -1), ("period_us", PERIOD_US)):
                (group / f"cpu.cfs_{file}").write_text(str(value))
            (group / "cpu.shares").write_text(str(WEIGHT))
            (group / "cgroup.procs").write_text(str(self.processes[-1].pid))
        self.bytes = self._answers()[0]["bytes"]
        for i in range(self.hosts):
            (GROUPS / f"r2d2-host{i}" / "cpu.cfs_quota_us").write_text(str(int(self.quota * PERIOD_US)))

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.server.stop()
        for group in GROUPS.glob("r2d2-host*"):
            group.rmdir()
        subprocess.run([HOSTS, "down", str(self.hosts)], check=False)
        self.lock.release()

    def link(self, rate: float) -> None:
        """Shape all links anew, to so many Gbit/s."""
        for i in range(self.hosts):
            shape = ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", f"{1000 * rate:g}mbit"]
            subprocess.run(["ip", "netns", "exec", f"node{i}", *shape, "burst", "1mb", "latency", "50ms"], check=True)

    def steps(self, way: str, count: int) -> Block:
        """Of each host so many steps: the seconds, and the communication."""
        for process in self.processes:
            process.stdin.write(f"{way} {count}\n")
            process.stdin.flush()
        return self._answers()

    def _answers(self) -> list:
        told = [process.stdout.readline() for process in self.processes]
        if not all(told):
            shown = " ".join(str(word) for word in self.command)
            raise SystemExit(f"one of {self.hosts} hosts failed; run it by itself: {shown}")
        return [json.loads(line) for line in told]
