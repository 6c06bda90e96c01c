"""What measurements of rings share: hosts, a ring on them, what it trains.

The hosts are network namespaces of this machine: infra/several_hosts.sh; they need root and iproute2.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from helpers.hosts import LOCK, OUTSIDE, SCRIPT


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
