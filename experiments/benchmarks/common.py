"""What the benchmarks share: tools in processes and environments of their own, intervals, records."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of a virtual environment with these packages, made the first time."""
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)
    return folder / "bin" / "python"


class Tool:
    """A process that answers lines of its input with lines of numbers, and waits meanwhile."""

    def __init__(self, name: str, command: Sequence[str | Path], variables: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [*command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"} | dict(variables or {}),
        )
        self.name, self._command = name, command

    def ask(self, line: str) -> list[float]:
        """What it answers."""
        assert self._process.stdin and self._process.stdout
        print(line, file=self._process.stdin, flush=True)
        told = self._process.stdout.readline()
        if not told:
            shown = " ".join(str(word) for word in self._command)
            raise SystemExit(f"{self.name} failed; run it by itself and type {line!r}: {shown}")
        return [float(value) for value in told.split()]

    def signal(self, number: int) -> None:
        """Stop it, or let it go on."""
        self._process.send_signal(number)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the 95 % interval of it by resampling."""
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(values, (2000, len(values))), axis=1)
    return statistics.median(values), *np.percentile(drawn, (2.5, 97.5))


NOTES = "<!-- notes -->\n"
"""What stands below it in a record was written by people, and stays."""


@dataclass(frozen=True)
class Figure:
    """One comparison: what R2D2 and a peer, or a limit, or R2D2 otherwise take, and the ratio of the two.

    Attributes:
        name: What the README calls it by.
        what: What is compared with what, in words.
        unit: Of `ours` and `peer`, medians.
        ratio: How many times as fast (or as small) R2D2 is, the median of neighbouring turns.
        low: The lower end of its 95 % interval; None if there were no turns.
        high: The upper end.
    """

    name: str
    what: str
    unit: str
    ours: float
    peer: float
    ratio: float
    low: float | None
    high: float | None


def figure(name: str, what: str, unit: str, ours: Sequence[float], peer: Sequence[float]) -> Figure:
    """The comparison of what both took, turn by turn (less is better)."""
    ratio, low, high = interval([theirs / mine for mine, theirs in zip(ours, peer, strict=True)])
    return Figure(name, what, unit, statistics.median(ours), statistics.median(peer), ratio, low, high)


def keep(script: str, report: str, figures: Sequence[Figure]) -> None:
    """Print a benchmark's record, and write it and its figures beside it, as .md and .json; notes below it stay."""
    page = Path(script).with_suffix(".md")
    notes = page.read_text().partition(NOTES)[2] if page.exists() else ""
    page.write_text(report + (f"\n{NOTES}{notes}" if notes else ""))
    found = {"date": str(date.today()), "machine": machine(), "figures": [asdict(one) for one in figures]}
    page.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(report)


def machine() -> dict[str, Any]:
    """Processor, cores, load, versions and commit of what is measured here and now."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    packages = ("r2d2", "tensorflow-cpu", "tensorflow", "keras", "horovod", "ray", "mlflow", "numpy")
    return {
        "processor": next(names, platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "commit": git.stdout.strip(),
        "versions": {n: metadata.version(n) for n in packages if list(metadata.distributions(name=n))},
    }


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


def torch_unet(filters: int, depth: int, classes: int) -> Any:
    """Dist-U-Net for scans of one channel, without normalization, as PyTorch's users write it."""
    import torch
    from torch import nn

    def level(before, after):
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            wide = [filters * 2**number for number in range(depth + 1)]
            self.down = nn.ModuleList([level(a, b) for a, b in zip([1, *wide], wide[:-1], strict=False)])
            self.bottom = level(wide[-2], wide[-1])
            self.up = nn.ModuleList([nn.ConvTranspose2d(2 * w, w, 2, 2) for w in wide[:-1]])
            self.back = nn.ModuleList([level(2 * w, w) for w in wide[:-1]])
            self.logits = nn.Conv2d(filters, classes, 1)
            self.pool = nn.MaxPool2d(2)

        def forward(self, x):
            skips = []
            for one in self.down:
                x = one(x)
                skips.append(x)
                x = self.pool(x)
            x = self.bottom(x)
            for number in reversed(range(depth)):
                x = self.back[number](torch.cat([skips[number], self.up[number](x)], 1))
            return self.logits(x)

    return UNet()
