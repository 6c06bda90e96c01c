"""Kernels of our own, in C++, where TensorFlow's cost too much: built by `python -m r2d2.kernels`."""

import hashlib
import importlib.metadata
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SOURCES = ("convolution.cc", "convolution_gradient.cc", "amx.h")
FLAGS = (
    *("-std=c++17", "-O3", "-march=skylake-avx512", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
    *("-shared", "-fPIC", "-w"),
)
CHANNELS = 32
"""What the numbers of channels of a convolution that is computed here are multiples of."""
NEEDED = {"amx_bf16", "amx_tile", "avx512_bf16", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
"""What the processor must be able to do, by Linux' names: what FLAGS let the compiler use."""


def library() -> Path:
    """Where the built kernels lie: by what they were made of, so that old ones are never taken for new ones."""
    version = next(
        importlib.metadata.version(package)
        for package in ("tensorflow", "tensorflow-cpu")
        if list(importlib.metadata.distributions(name=package))
    )
    sources = b"".join((FOLDER / name).read_bytes() for name in SOURCES)
    made_of = hashlib.sha256(sources + " ".join((version, *FLAGS)).encode()).hexdigest()
    return FOLDER / f"kernels-{made_of[:12]}.so"


@cache
def load() -> Any:
    """The kernels; None where they are not built, or neither processor nor system lets this process use them."""
    if not processor_flags() >= NEEDED or not library().exists():
        return None
    import tensorflow as tf

    try:
        found = tf.load_op_library(str(library()))
        with tf.init_scope():  # also where a graph is being made: tried once, at once
            one = tf.ones((1, 1, 1, 1), tf.bfloat16)
            found.r2d2_convolution_gradient(images=[one], gradient=one, output=one, size=1, relu=True)
    except (tf.errors.NotFoundError, tf.errors.UnavailableError) as error:
        print(f"r2d2: training goes without the kernels for AMX: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return found


def build() -> Path:
    """Compile the kernels, for processors with AMX, on any x86-64 machine with g++ 11 or later.

    Raises:
        OSError: There is no g++.
        subprocess.CalledProcessError: It refuses; what it says is in `stderr`.
    """
    import tensorflow as tf

    from r2d2.files import whole_file

    with whole_file(library()) as beside:
        sources = [str(FOLDER / name) for name in SOURCES if name.endswith(".cc")]
        made = [*tf.sysconfig.get_compile_flags(), *sources, "-o", str(beside), *tf.sysconfig.get_link_flags()]
        subprocess.run(["g++", *FLAGS, *made], check=True, capture_output=True, text=True)
    return library()


def main() -> None:
    """Build what is not built; say in a line why it cannot be."""
    if library().exists():
        return
    try:
        build()
    except (OSError, subprocess.CalledProcessError) as error:
        told = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        reason = next((line for line in told if "error" in line), told[0])
        print(f"r2d2: the kernels for AMX cannot be built, training goes without them: {reason}", file=sys.stderr)


def processor_flags() -> set[str]:
    """What the processor can do, by Linux' names; nothing where there is no Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = (line for line in text.splitlines() if line.startswith("flags"))
    return set(next(lines, "").partition(":")[2].split())
