"""What measurements of rings share: hosts, a ring on them, what it trains.

The hosts are network namespaces of this machine: infra/several_hosts.sh; they need root and iproute2. They have the
same share of a processor each, by the processor controller of cgroup v1 at /sys/fs/cgroup/cpu: a quota of the kernel's,
in periods of 4 ms, and the weight to have it whatever else runs. Several rings may be on them, of which one at a time
is at work, so that all that is compared can have its turn in each round.
"""

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from helpers.hosts import LOCK, OUTSIDE, SCRIPT

GROUPS = Path("/sys/fs/cgroup/cpu")
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


@contextlib.contextmanager
def laid_out(count: int, rate: str) -> Iterator[None]:
    """So many hosts with links of this rate, as long as this is entered; whoever else uses some is waited for."""
    with FileLock(LOCK):
        subprocess.run([SCRIPT, "up", str(count), rate], check=True)
        try:
            yield
        finally:
            subprocess.run([SCRIPT, "down", str(count)], check=True)


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
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "86400",  # a ring is stopped while others have their turn
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


def network(settings: Mapping[str, Any], classes: int, size: int) -> Any:
    """The plain network of these settings, for one channel and images of this size."""
    from r2d2 import config, models

    kind = config.DistFCN if "fcn" in settings["network"] else config.DistUNet
    return models.build(kind(**settings), 1, classes, (size, size))


def begun(build: Callable[[], Any], ring: Any, images: tuple[int, int, int], classes: int) -> tuple[Any, Any, Any, Any]:
    """A network in bfloat16 with the same weights on all hosts, its optimizer, and this host's random images and masks.

    Args:
        build: Makes the plain network.
        ring: The hosts'.
        images: How many there are, and their size.
        classes: How many are in the masks.
    """
    import keras
    import tensorflow as tf

    from r2d2 import config
    from r2d2.models.precision import with_precision
    from r2d2.training import optimizers

    keras.utils.set_random_seed(0)
    model = with_precision(build(), "bfloat16")
    optimizer = optimizers.build(config.Training())
    optimizer.build(model.trainable_variables)
    ring.broadcast(model.variables)
    rng = np.random.default_rng(ring.rank)
    scans = tf.constant(rng.normal(size=(*images, 1)), tf.float32)
    return model, optimizer, scans, tf.constant(rng.integers(0, classes, images), tf.uint8)


def gradient_bytes(model: Any) -> int:
    """The bytes of a step's gradients."""
    return 4 * sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)


class Alone:
    """A ring of one, whoever else is there: what `Step` asks of it."""

    size = 1

    @staticmethod
    def sum_gradients(gradients):
        """The gradients themselves."""
        return [*gradients]

    @staticmethod
    def sum_tensor(tensor, name):  # noqa: ARG004
        """The tensor itself."""
        return tensor


def train_in_turn(
    build: Callable[[], Any], images: tuple[int, int, int], classes: int, ways: Mapping[str, Mapping[str, Any]]
) -> None:
    """One host: answers `WAY STEPS` on its input with the seconds and the communication of each step.

    It trains on images of random numbers, in bfloat16 by SGD. The way `alone` is by itself. First it tells how many
    bytes its gradients have.

    Args:
        build: Makes the plain network.
        images: How many a minibatch has, and their size.
        classes: How many are in the masks.
        ways: The ring's settings, by name. Fusion and cycle are those of the first: Horovod takes them once a process.
    """
    from r2d2 import config
    from r2d2.training import device

    device.limit_threads(1)
    from r2d2.models.losses import dice_cross_entropy
    from r2d2.training.ring import Ring
    from r2d2.training.step import Step

    settings = {way: config.Ring(**of) for way, of in ways.items()}
    ring = Ring(next(iter(settings.values())))
    model, optimizer, scans, masks = begun(build, ring, images, classes)
    seeds = [(v, int(v.numpy()[0])) for v in model.variables if v.name == "seed_generator_state"]

    def step(joined, size, number):
        weights = model.trainable_variables
        return Step(model, weights, optimizer, dice_cross_entropy, seeds, images[0], [number], size, joined)

    steps = {"alone": step(Alone(), 1, 0)}
    for way, of in settings.items():
        joined = copy.copy(ring)
        joined._settings = of
        steps[way] = step(joined, ring.size, ring.rank)
    for one in steps.values():
        for number in range(WARM_UP):
            one(scans, masks, number, 1e-3)
    print(json.dumps({"bytes": gradient_bytes(model)}), flush=True)
    for line in sys.stdin:
        way, count = line.rsplit(maxsplit=1)
        taken = []
        for number in range(int(count)):
            began = time.perf_counter()
            told = steps[way](scans, masks, number, 1e-3)
            taken.append((time.perf_counter() - began, told.communication_s))
        print(json.dumps(taken), flush=True)
    ring.close()


class Layout:
    """A ring on the first hosts of a machine, see `Hosts.ring`; stopped (SIGSTOP) while it is not asked for steps.

    Attributes:
        bytes: Of its gradients.
    """

    def __init__(self, processes: Sequence[subprocess.Popen]) -> None:
        self._processes = processes
        self.bytes: int = self._answers()[0]["bytes"]
        self._signal(signal.SIGSTOP)

    def steps(self, way: str, count: int) -> Block:
        """Of each host so many steps: the seconds, and the communication."""
        self._signal(signal.SIGCONT)
        for process in self._processes:
            process.stdin.write(f"{way} {count}\n")
            process.stdin.flush()
        answers = self._answers()
        self._signal(signal.SIGSTOP)  # or its Horovod would look for gradients all the time
        return answers

    def _signal(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)

    def _answers(self) -> list:
        told = [process.stdout.readline() for process in self._processes]
        if not all(told):
            shown = " ".join(str(word) for word in self._processes[0].args)
            raise SystemExit(f"one of {len(told)} hosts failed; run it by itself: {shown}")
        return [json.loads(line) for line in told]


class Hosts:
    """Hosts with links, each in a group of its own share of a core; to be used in a `with`.

    Args:
        count: How many.
        quota: Of a core, which each of them has.
    """

    def __init__(self, count: int, quota: float) -> None:
        self.count, self.quota = count, quota
        self._groups = [GROUPS / f"r2d2-host{i}" for i in range(count)]

    def __enter__(self) -> "Hosts":
        with contextlib.ExitStack() as ends:
            ends.enter_context(laid_out(self.count, "40gbit"))
            for group in self._groups:
                group.mkdir(exist_ok=True)
                ends.callback(group.rmdir)
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.shares").write_text(str(WEIGHT))
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.close()

    def ring(self, hosts: int, command: Sequence[str | Path]) -> Layout:
        """A ring of the first so many hosts. They keep it, beside others that are started, as long as they are there.

        Args:
            hosts: How many.
            command: What each runs: something that ends with `train_in_turn`.
        """
        server, environments = rendezvous(range(hosts))
        self._ends.callback(server.stop)
        # No quota before they are ready: their start would take as many times as long.
        self._limit(-1)
        cores = sorted(os.sched_getaffinity(0))
        processes = []
        for i, environment in enumerate(environments):
            run = [SCRIPT, "run", str(i), "taskset", "-c", str(cores[i % len(cores)]), *command]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(run, text=True, env=environment, **pipes)
            self._ends.callback(process.wait)
            self._ends.callback(process.kill)
            (self._groups[i] / "cgroup.procs").write_text(str(process.pid))
            processes.append(process)
        layout = Layout(processes)
        self._limit(int(self.quota * PERIOD_US))
        return layout

    def _limit(self, quota_us: int) -> None:
        for group in self._groups:
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))

    def link(self, rate: float) -> None:
        """Shape all links anew, to so many Gbit/s."""
        for i in range(self.count):
            shape = ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", f"{1000 * rate:g}mbit"]
            subprocess.run(["ip", "netns", "exec", f"node{i}", *shape, "burst", "1mb", "latency", "50ms"], check=True)
