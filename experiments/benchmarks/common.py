"""What the benchmarks share: peers in environments of their own, intervals, the work of a network."""

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of a virtual environment with these packages, made the first time."""
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)
    return folder / "bin" / "python"


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the 95 % interval of it by resampling."""
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(values, (2000, len(values))), axis=1)
    return statistics.median(values), *np.percentile(drawn, (2.5, 97.5))


def flops_an_image(model: Any) -> float:
    """Floating-point operations of a training step's convolutions: forward, and the gradients of kernels and inputs.

    The first convolution has no gradient of its input to compute.
    """
    total, first = 0.0, True
    for layer in model.layers:
        if (kind := type(layer).__name__) in ("Conv2D", "Conv2DTranspose"):
            _, height, width, _ = (layer.output if kind == "Conv2D" else layer.input).shape
            total += 2 * (2 if first else 3) * height * width * float(np.prod(layer.kernel.shape))
            first = False
    return total
