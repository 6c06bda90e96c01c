"""How many slices go through a network at once, by the memory that is free."""

import os
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import psutil
import tensorflow as tf

MOST = 16
"""Slices at once; more are not faster."""
SHARE = 0.5
"""Of the free memory: the rest is for the scan, its masks and whoever else is here."""
CGROUPS = Path("/sys/fs/cgroup")


def batch_size(network: keras.Model) -> int:
    """How many images a network may predict at once: as many as fit into the free memory, 1 to `MOST`."""
    room = free_bytes() if not tf.config.list_physical_devices("GPU") else free_gpu_bytes()
    return MOST if room is None else int(np.clip(SHARE * room // image_bytes(network), 1, MOST))


def image_bytes(network: keras.Model) -> int:
    """A bound of what a network's layers hold for one image: all that they put out, as if nothing were freed."""
    total = 0
    for layer in network.layers:
        outputs = layer.output if isinstance(layer.output, list) else [layer.output]
        size = tf.as_dtype(layer.compute_dtype).size
        total += sum(size * int(np.prod(output.shape[1:])) for output in outputs)
    return total


def free_bytes(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """The memory that this process may still take: of the machine, and of every control group that it is in.

    Args:
        cgroups: Where the groups are mounted.
        own: The file that lists this process' groups.
    """
    free = [psutil.virtual_memory().available]
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        return free[0]
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, limit, used = (
            (cgroups, "memory.max", "memory.current")
            if not controllers
            else (cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        folder = root / place.lstrip("/")
        # In a container the path may be the host's, which is not here; then its root is the group itself.
        for group in (folder, *(parent for parent in folder.parents if parent.is_relative_to(root))):
            try:
                most, now = (group / limit).read_text().strip(), int((group / used).read_text())
                files = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                continue
            if most != "max":
                # Files that were read and are kept in memory give way.
                free.append(int(most) - now + int(files.get("inactive_file", 0)))
    return max(0, min(free))


def free_gpu_bytes() -> int | None:
    """The memory that is free on the first GPU that this process may use; None where the driver does not say."""
    import pynvml

    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
        try:
            by = pynvml.nvmlDeviceGetHandleByIndex if first.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID
            return int(pynvml.nvmlDeviceGetMemoryInfo(by(int(first) if first.isdecimal() else first)).free)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def take_as_needed() -> None:
    """Let TensorFlow take a GPU's memory as it needs it, and not all at once, if it has not begun yet."""
    for gpu in tf.config.list_physical_devices("GPU"):
        with suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
