"""What the network between hosts costs a step: two hosts at 1 and at 10 Gbit/s, with each way to send gradients.

    sudo python experiments/benchmarks/network.py --steps 12

Two hosts are network namespaces of this machine (infra/several_hosts.sh; needs root and iproute2), their links shaped
by `tc`. Each host has one core of its own, and so have the single hosts that they are compared with: two that train at
the same time, each by itself, so that memory and caches are shared as they are by the two of a ring. Each trains one
network (128x128, batch 8, bfloat16, SGD) on images of random numbers, through
`r2d2.training.ring.Ring`.

A step's exposed communication is the time from a host's last gradient to the last sum, on the host that waited least:
the other's is that and waiting for its neighbour. `bytes/bandwidth` is what one host must send, at the link's rate.
Efficiency is the single host's step over two hosts'. Slow computing flatters it, so the last columns say what would be
left with a GPU, on the paper's images of 512x512, at the operations a second that it is taken to reach in training: at
most that which the exposed communication measured here would leave (never less than the link needs for the bytes), at
least that which is left when nothing overlaps.

The results are printed and written beside this file, to `network.md`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import date

from common import Figure, flops_an_image, keep
from rings import SCRIPT, begun, gradient_bytes, laid_out, network, rendezvous

SIZE, BATCH, CLASSES = 128, 8, 4
NETWORKS = {
    "Dist-U-Net (32 filters, depth 4)": {"network": "dist-unet", "filters": 32, "depth": 4},
    "Dist-FCN (VGG-16, stride 8, head 1024)": {"network": "dist-fcn", "encoder": "vgg16", "head_width": 1024},
}
GPU_SIZE = 512
GPUS = {"GTX 1080 Ti, 5 TFLOP/s": 5e12, "100 TFLOP/s": 100e12}
"""The paper's, and one of today's, with what they are taken to reach."""
WAYS = {
    "default": {},
    "no overlap": {"overlap": False},
    "no fusion": {"fusion_mb": 0},
    "fusion of 8 MiB": {"fusion_mb": 8},
    "cycle of 5 ms": {"cycle_ms": 5},
    "fp16": {"compression": "fp16"},
    "fp16, no overlap": {"compression": "fp16", "overlap": False},
}


def rank(name: str, way: str, steps: int) -> None:
    """One host: train, print the seconds and the exposed communication of each step, and the gradients' bytes."""
    from r2d2 import config
    from r2d2.training import device

    device.limit_threads(1)
    from r2d2.models.losses import dice_cross_entropy
    from r2d2.training.ring import Ring
    from r2d2.training.step import Step

    ring = Ring(config.Ring(**WAYS[way]))
    model, optimizer, images, labels = begun(lambda: plain(name), ring, (BATCH, SIZE, SIZE), CLASSES)
    seeds = [(v, int(v.numpy()[0])) for v in model.variables if v.name == "seed_generator_state"]
    step = Step(
        model, model.trainable_variables, optimizer, dice_cross_entropy, seeds, BATCH, [ring.rank], ring.size, ring
    )
    for number in range(3):
        step(images, labels, number, 1e-3)
    taken = []
    for number in range(steps):
        began = time.perf_counter()
        told = step(images, labels, number, 1e-3)
        taken.append((time.perf_counter() - began, told.communication_s))
    print(json.dumps({"taken": taken, "bytes": gradient_bytes(model)}))
    ring.close()


def plain(name: str):
    """The network of a name."""
    return network(NETWORKS[name], CLASSES, SIZE)


def run(rings: list[list[int]], name: str, way: str, steps: int) -> tuple[float, float, int]:
    """Train in so many rings of hosts at the same time.

    Returns:
        Of a step the seconds (the mean of the rings), the exposed communication (of the first), and the gradients'
        bytes.
    """
    servers, processes = [], []
    for hosts in rings:
        server, environments = rendezvous(hosts)
        servers.append(server)
        for i, environment in zip(hosts, environments, strict=True):
            command = [SCRIPT, "run", str(i), "taskset", "-c", str(i), sys.executable, __file__, "--network", name]
            command += ["--way", way, "--steps", str(steps)]
            processes.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
            )
    try:
        told = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
        for server in servers:
            server.stop()
    if any(process.returncode for process in processes):
        raise SystemExit(f"{name}, {way}: a host failed")
    found = iter([json.loads(one.splitlines()[-1]) for one in told])
    seconds, exposed, size = [], [], 0
    for hosts in rings:
        mine = [next(found) for _ in hosts]
        pairs, size = list(zip(*(one["taken"] for one in mine), strict=True)), mine[0]["bytes"]
        seconds.append(statistics.median(max(wall for wall, _ in pair) for pair in pairs))
        exposed.append(statistics.median(min(waited for _, waited in pair) for pair in pairs))
    return statistics.mean(seconds), exposed[0], size


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rates", default="1,10", help="Gbit/s")
    parser.add_argument("--network")
    parser.add_argument("--way")
    given = parser.parse_args()
    if given.way:
        rank(given.network, given.way, given.steps)
        return
    measured = {name: {} for name in NETWORKS}
    for name in NETWORKS:
        for rate in given.rates.split(","):
            with laid_out(2, f"{rate}gbit"):
                alone = run([[0], [1]], name, "default", given.steps)
                measured[name][rate] = (alone, {way: run([[0, 1]], name, way, given.steps) for way in WAYS})
            print(page(measured, given.steps), flush=True)
    # Hosts alone and in a ring are measured one after the other, not in turn: the ratio has no interval.
    figures = [
        Figure(
            f"network/{name}/{rate}",
            f"{name}, two hosts at {rate} Gbit/s: one host",
            "s a step",
            two,
            one,
            one / two,
            None,
            None,
        )
        for name, rates in measured.items()
        for rate, ((one, _, _), ways) in rates.items()
        for two in [ways["default"][0]]
    ]
    keep(__file__, page(measured, given.steps), figures)


def page(measured: dict[str, dict], steps: int) -> str:
    """What was measured, as tables: of each network and rate a single host, and each way of two."""
    lines = [
        f"# Two hosts, {date.today()}",
        "",
        f"128x128, batch {BATCH} a host, bfloat16, one core a host; medians of {steps} steps; seconds.",
        "`python experiments/benchmarks/network.py`",
    ]
    for name, rates in measured.items():
        work = BATCH * flops_an_image(network(name)) * (GPU_SIZE / SIZE) ** 2
        times = ", ".join(f"{gpu}: {1e3 * work / speed:.0f} ms" for gpu, speed in GPUS.items())
        lines += ["", f"## {name}", "", f"A GPU's step at {GPU_SIZE}x{GPU_SIZE}: {times}.", ""]
        header = ["Gbit/s", "way", "step", "exposed", "bytes/bandwidth", "efficiency", *GPUS]
        lines += [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        for rate, ((alone, _, size), results) in rates.items():
            lines.append(f"| {rate} | one host | {alone:.3f} |" + " - |" * (len(header) - 3))
            for way, (seconds, exposed, _) in results.items():
                bare = 8 * size / (2 if "fp16" in way else 1) / float(rate) / 1e9
                whole = max(results["fp16, no overlap" if "fp16" in way else "no overlap"][1], bare)
                cells = [rate, way, f"{seconds:.3f}", f"{exposed:.3f}", f"{bare:.3f}", f"{alone / seconds:.0%}"]
                for step in (work / speed for speed in GPUS.values()):
                    cells.append(f"{step / (step + whole):.0%} to {step / max(step + exposed, bare):.0%}")
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
