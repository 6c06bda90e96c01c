"""What the network between hosts costs a step: two hosts at 1 and at 10 Gbit/s, with each way to send gradients.

    sudo python experiments/benchmarks/network.py            forty minutes on two cores
    sudo python experiments/benchmarks/network.py --rounds 1 --steps 3 --rates 1 --ways fp16     a look

Two hosts are network namespaces of this machine, their links shaped by `tc`, each with the same quota of a core, and so
are the single hosts that they are compared with: the same two, each training by itself at the same time, so that memory
and caches are shared as they are by the two of a ring (experiments/benchmarks/rings.py says what that needs). Each
trains one network (128x128, batch 8, bfloat16, SGD) on images of random numbers, through `r2d2.training.ring.Ring`.
Single hosts and every way have their turns in each round, ways that Horovod takes once a process in processes of their
own; a turn's first step does not count.

A step's exposed communication is the time from a host's last gradient to the last sum, on the host that waited least:
the other's is that and waiting for its neighbour. `bytes/bandwidth` is what one host must send, at the link's rate.
Efficiency is the single host's step over two hosts', of the same processes in the same round. Slow computing flatters
it, so the last columns say what would be left with a GPU, on the paper's images of 512x512, at the operations a second
that it is taken to reach in training: at most that which the exposed communication measured here would leave (never
less than the link needs for the bytes), at least that which is left when nothing overlaps.

The results are printed and written beside this file, to `network.md` and `network.json`.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass, field
from datetime import date
from functools import partial

from common import figure, flops_an_image, interval, keep, machine
from rings import Block, Hosts, network, refused, train_in_turn

SIZE, BATCH, CLASSES = 128, 8, 4
QUOTA = 0.5
"""Of a core, which every host has: two take half of a machine of two."""
NETWORKS = {
    "Dist-U-Net (32 filters, depth 4)": {"network": "dist-unet", "filters": 32, "depth": 4},
    "Dist-FCN (VGG-16, stride 8, head 1024)": {"network": "dist-fcn", "encoder": "vgg16", "head_width": 1024},
}
GPU_SIZE = 512
GPUS = {"GTX 1080 Ti, 5 TFLOP/s": 5e12, "100 TFLOP/s": 100e12, "H200, 341 TFLOP/s": 341e12}
"""The paper's, and two of today's, with what they are taken to reach, or reach (gpu.md)."""
WAYS = {
    "default": {},
    "no overlap": {"overlap": False},
    "fp16": {"compression": "fp16"},
    "fp16, no overlap": {"compression": "fp16", "overlap": False},
    "no fusion": {"fusion_mb": 0},
    "fusion of 8 MiB": {"fusion_mb": 8},
    "cycle of 5 ms": {"cycle_ms": 5},
}
PROCESSES = (
    ("default", "no overlap", "fp16", "fp16, no overlap"),
    ("no fusion",),
    ("fusion of 8 MiB",),
    ("cycle of 5 ms",),
)
"""Ways that the same processes can take."""


@dataclass
class Turns:
    """What one way took, turn by turn, in seconds of a step: `alone` the single hosts' of the same processes."""

    alone: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    exposed: list[float] = field(default_factory=list)

    def add(self, alone: Block, ring: Block) -> None:
        """Add a turn: of single hosts their mean, of a ring the slowest host's steps, and the least communication."""
        self.alone.append(statistics.mean(statistics.median(wall for wall, _ in one) for one in alone))
        pairs = [*zip(*ring, strict=True)]
        self.step.append(statistics.median(max(wall for wall, _ in pair) for pair in pairs))
        self.exposed.append(statistics.median(min(waited for _, waited in pair) for pair in pairs))


Found = dict[str, dict[str, dict[str, Turns]]]
"""By network, rate and way."""


def plain(name: str):
    """The network of a name."""
    return network(NETWORKS[name], CLASSES, SIZE)


def measure(name: str, wanted: list[str], rates: list[str], rounds: int, steps: int) -> tuple[dict, int]:
    """Of a network the turns of every rate and way, and the bytes of its gradients."""
    found: dict[str, dict[str, Turns]] = {}
    with Hosts(2, QUOTA) as hosts:
        rings = []
        for ways in PROCESSES:
            if mine := [way for way in ways if way in wanted]:
                rings.append(
                    (mine, hosts.ring(2, [sys.executable, __file__, "--host", name, "--ways", ";".join(mine)]))
                )
        for number in range(rounds):
            for rate in rates:
                hosts.link(float(rate))
                for mine, ring in rings:
                    alone, *turns = ([one[1:] for one in ring.steps(way, steps)] for way in ("alone", *mine))
                    for way, turn in zip(mine, turns, strict=True):
                        found.setdefault(rate, {}).setdefault(way, Turns()).add(alone, turn)
            print(f"{name}: round {number + 1} of {rounds}", flush=True)
        return found, rings[0][1].bytes


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="of a turn, of which the first does not count")
    parser.add_argument("--rates", default="1,10", help="Gbit/s")
    parser.add_argument("--ways", default=";".join(WAYS), help="beside the default one, with ; between them")
    parser.add_argument("--host", help=argparse.SUPPRESS)
    given = parser.parse_args()
    ways = given.ways.split(";")
    if given.host:
        train_in_turn(partial(plain, given.host), (BATCH, SIZE, SIZE), CLASSES, {way: WAYS[way] for way in ways})
        return
    if why := refused():
        sys.exit(f"network.py: {why}")
    found: Found = {}
    sizes: dict[str, int] = {}
    for name in NETWORKS:
        rates = given.rates.split(",")
        found[name], sizes[name] = measure(name, ["default", *ways], rates, given.rounds, given.steps)
    figures = [
        figure(
            f"network/{name}/{rate}",
            f"{name}, two hosts at {rate} Gbit/s: one host",
            "s a step",
            taken["default"].step,
            taken["default"].alone,
        )
        for name, rates in found.items()
        for rate, taken in rates.items()
    ]
    keep(__file__, page(found, sizes, given), figures)


def page(found: Found, sizes: dict[str, int], given: argparse.Namespace) -> str:
    """What was measured, as tables: of each network and rate a single host, and each way of two."""
    about = machine()
    lines = [
        f"# Two hosts, {date.today()}",
        "",
        f"128x128, batch {BATCH} a host, bfloat16, {QUOTA:g} core a host by quota, single hosts likewise; seconds a",
        f"step in {given.rounds} rounds in turn of {given.steps - 1} steps: medians of the turns, of steps and of",
        "efficiency with their 95 % interval.",
        f"`python experiments/benchmarks/network.py --rounds {given.rounds} --steps {given.steps}`, commit",
        f"{about['commit']}, {about['cores']} cores, {about['processor']}, load {about['load']}.",
    ]
    for name, rates in found.items():
        work = BATCH * flops_an_image(plain(name)) * (GPU_SIZE / SIZE) ** 2
        times = ", ".join(f"{gpu}: {1e3 * work / speed:.0f} ms" for gpu, speed in GPUS.items())
        megabytes = sizes[name] / 1e6
        lines += [
            "",
            f"## {name}",
            "",
            f"Gradients of {megabytes:.0f} MB. A GPU's step at {GPU_SIZE}x{GPU_SIZE}: {times}.",
            "",
        ]
        header = ["Gbit/s", "way", "step", "exposed", "bytes/bandwidth", "efficiency", *GPUS]
        lines += [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        for rate, taken in rates.items():
            lines.append(f"| {rate} | one host | {told(taken['default'].alone, '.3f')} |" + " - |" * (len(header) - 3))
            for way, turns in taken.items():
                bare = 8 * sizes[name] / (2 if "fp16" in way else 1) / float(rate) / 1e9
                exposed = statistics.median(turns.exposed)
                late = taken.get("fp16, no overlap" if "fp16" in way else "no overlap", turns)
                whole = max(statistics.median(late.exposed), bare)
                efficiency = [one / two for one, two in zip(turns.alone, turns.step, strict=True)]
                cells = [rate, way, told(turns.step, ".3f"), f"{exposed:.3f}", f"{bare:.3f}", told(efficiency, ".0%")]
                for step in (work / speed for speed in GPUS.values()):
                    cells.append(f"{step / (step + whole):.0%} to {step / max(step + exposed, bare):.0%}")
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def told(values: list[float], how: str) -> str:
    """The median of turns with its interval."""
    middle, low, high = (format(value, how) for value in interval(values))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
