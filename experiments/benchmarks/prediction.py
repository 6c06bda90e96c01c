"""Volumes a second in prediction: R2D2's against PyTorch's with MONAI, from a volume in memory to a mask on its grid.

    python experiments/benchmarks/prediction.py --rounds 12

One U-Net (depth 4; 32 and 64 filters), bfloat16, a scan of 240x240x155 voxels with one channel, four classes; images of
128x128. Each tool is a process of its own that predicts when it is told to, and waits meanwhile; rounds give ratios of
neighbouring turns. The peer's environment is made under `.r2d2/benchmarks/` the first time.

- `r2d2`: `r2d2.inference.Segmenter`, as `r2d2 predict` uses it for a folder; also as for one scan (weights not frozen),
  and `r2d2.inference.Predictor`, which scores and does not depend on the machine.
- `pytorch`: the same in PyTorch and MONAI: z-scored over the foreground (NormalizeIntensity), slices resized by area,
  a network in channels_last under bfloat16 autocast and inference_mode, scores resized linearly, argmax. Also with
  `torch.compile` and its weights frozen (TORCHINDUCTOR_FREEZING), with torch.jit's freezing and
  optimize_for_inference, and with malloc's huge pages. The best one counts.
- `network`: images in memory to the classes of their pixels, and nothing around it.

Weights are random, of the same shapes, biases not 0 (a bias of 0 is optimized away, and no trained one is). Peak memory
is that of a process of its own that predicts one scan; for R2D2 also of 512x512x300 at 512x512.

The results are printed and written beside this file, to `prediction.md`.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
from common import Tool, environment, figure, interval, keep, torch_unet

SHAPE, SIZE, DEPTH, CLASSES = (240, 240, 155), 128, 4, 4
PEERS = ("torch==2.13.0", "monai==1.6.1", "numpy<2.5")
HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
BATCH = 16


def scan(shape) -> np.ndarray:
    """A head of noise in air, (X, Y, Z) float32."""
    data = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    places = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij", sparse=True)
    data[sum(place**2 for place in places) > 0.8] = 0
    return data


def r2d2_tool(filters: int, shape, size: int, exact: bool = False, many: bool = True):
    """R2D2's: what predicts a volume, and what predicts images."""
    from r2d2 import config, imgmed, models
    from r2d2.inference import Predictor, Segmenter
    from r2d2.models.precision import with_precision

    settings = config.DistUNet(network="dist-unet", filters=filters, depth=DEPTH)
    plain = models.build(settings, 1, CLASSES, (size, size))
    rng = np.random.default_rng(0)
    plain.set_weights([w if w.ndim > 1 else 0.1 * rng.standard_normal(w.shape) for w in plain.get_weights()])
    preprocess = config.Preprocess(image_size=(size, size))
    network = with_precision(plain, "bfloat16")
    volume = imgmed.Volume(scan(shape), np.eye(4))
    if exact:
        predictor = Predictor(network, preprocess)
        frame = imgmed.frame((size, size), (size, size))
        return (
            lambda: predictor.volume(volume, Path("scan")).data,
            lambda images: [predictor.labels(images[i : i + BATCH], frame) for i in range(0, len(images), BATCH)],
        )
    segmenter = Segmenter(network, preprocess, many=many)

    def network_alone(images):
        labels = np.empty(images.shape[:3], np.uint8)

        def work(part):
            labels[part] = segmenter._forward(images[part]).argmax(axis=-1)

        segmenter._each(work, len(images), lambda: None)
        return labels

    return (
        lambda: segmenter.segment(volume, segmenter.images(volume, Path("scan"))).mask.data,
        network_alone,
    )


def pytorch_tool(filters: int, shape, size: int, how: str = ""):
    """PyTorch's with MONAI, likewise."""
    import torch
    from monai.transforms import NormalizeIntensity
    from torch.nn import functional

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)

    model = torch_unet(filters, DEPTH, CLASSES).eval().to(memory_format=torch.channels_last)
    example = torch.zeros(BATCH, 1, size, size).contiguous(memory_format=torch.channels_last)
    if "jit" in how:
        # Tracing under autocast keeps its casts in the graph; freezing then makes the weights constants.
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            model = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, example)))
    elif how:
        model = torch.compile(model, dynamic=False)
    normalize = NormalizeIntensity(nonzero=True)
    data = scan(shape)

    def scores(images):
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            return model(images)

    def parts(images):
        # The last part is filled up, so that compiled networks see one shape.
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            full = torch.cat([part, part.new_zeros(BATCH - len(part), *part.shape[1:])]) if len(part) < BATCH else part
            yield start, len(part), scores(full)[: len(part)]

    @torch.inference_mode()
    def volume():
        # MONAI gives a tensor of its own, which torch.compile does not know.
        slices = normalize(torch.from_numpy(data)[None]).as_subclass(torch.Tensor).permute(3, 0, 1, 2)  # (Z, 1, X, Y)
        images = functional.interpolate(slices, (size, size), mode="area")
        labels = torch.empty(len(slices), *slices.shape[2:], dtype=torch.uint8)
        for start, count, found in parts(images):
            resized = functional.interpolate(found.float(), slices.shape[2:], mode="bilinear", align_corners=False)
            labels[start : start + count] = resized.argmax(1)
        return labels.permute(1, 2, 0).contiguous().numpy()

    @torch.inference_mode()
    def network_alone(images):
        return [found.argmax(1) for _, _, found in parts(torch.from_numpy(images).permute(0, 3, 1, 2))]

    return volume, network_alone


TOOLS = {
    "r2d2": r2d2_tool,
    "r2d2, one scan": lambda *given: r2d2_tool(*given, many=False),
    "r2d2, as it scores": lambda *given: r2d2_tool(*given, exact=True),
    "pytorch": pytorch_tool,
    "pytorch, huge pages": pytorch_tool,
    "pytorch, compiled and frozen": lambda *given: pytorch_tool(*given, how="compiled"),
    "pytorch, jit": lambda *given: pytorch_tool(*given, how="jit"),
}


def serve(tool: str, filters: int, shape, size: int) -> None:
    """Do what a line of standard input says: `volume` or `network`; tell seconds and the peak of memory in MiB."""
    answers, sys.stdout = sys.stdout, sys.stderr
    volume, network = TOOLS[tool](filters, shape, size)
    images = np.random.default_rng(1).standard_normal((BATCH * 4, size, size, 1)).astype(np.float32)
    for line in sys.stdin:
        began = time.perf_counter()
        volume() if line.startswith("volume") else network(images)
        seconds = time.perf_counter() - began
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=answers, flush=True)


def tool_of(name: str, filters: int, peers: Path, shape=SHAPE, size=SIZE) -> Tool:
    """One tool's process."""
    python = sys.executable if name.startswith("r2d2") else environment(peers, PEERS)
    command = [python, __file__, "--tool", name, "--filters", str(filters), "--scan", json.dumps([*shape, size])]
    more = dict(HUGE) if "huge" in name else {}
    return Tool(name, command, more | ({"TORCHINDUCTOR_FREEZING": "1"} if "frozen" in name else {}))


def in_turn(names, filters: int, peers: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of a volume and of 64 images, of each tool's turns after one to warm up."""
    tools, usable = [tool_of(name, filters, peers) for name in names], []
    for tool in tools:
        try:
            tool.ask("volume"), tool.ask("network")
            usable.append(tool)
        except SystemExit as error:
            print(error, flush=True)
    taken = {tool.name: {"volume": [], "network": []} for tool in usable}
    chance = random.Random(0)
    for number in range(rounds):
        for what in ("volume", "network"):
            for tool in chance.sample(usable, len(usable)):
                taken[tool.name][what].append(tool.ask(what)[0])
        shown = "  ".join(
            f"{n} {t['volume'][-1]:.2f} s, {1e3 * t['network'][-1] / 64:.1f} ms" for n, t in taken.items()
        )
        print(f"{filters} filters, round {number + 1}: {shown}", flush=True)
    for tool in usable:
        tool.close()
    return taken


def peak_mib(name: str, filters: int, peers: Path, shape=SHAPE, size=SIZE) -> tuple[float, float]:
    """Seconds and the peak of memory of a process that predicts one volume."""
    tool = tool_of(name, filters, peers, shape, size)
    seconds, peak = tool.ask("volume")
    tool.close()
    return seconds, peak


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--home", type=Path, default=Path(".r2d2/benchmarks"))
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--tool")
    parser.add_argument("--filters", type=int)
    parser.add_argument("--scan", type=json.loads)
    given = parser.parse_args()
    if given.tool:
        *shape, size = given.scan
        serve(given.tool, given.filters, tuple(shape), size)
        return
    peers = given.peers or given.home.absolute() / "torch"
    environment(peers, PEERS)
    taken = {32: in_turn(TOOLS, 32, peers, given.rounds)}
    best = min(
        (n for n in taken[32] if n.startswith("pytorch")), key=lambda n: statistics.median(taken[32][n]["volume"])
    )
    taken[64] = in_turn(("r2d2", best), 64, peers, max(3, given.rounds // 2))
    memory = {name: peak_mib(name, 32, peers)[1] for name in ("r2d2", "r2d2, one scan", best)}
    large = peak_mib("r2d2, one scan", 32, peers, (512, 512, 300), 512)
    figures = [
        figure(
            f"prediction/{filters}/{name}",
            f"Prediction of a volume, {filters} filters: {name}",
            "s",
            turns["r2d2"]["volume"],
            of["volume"],
        )
        for filters, turns in taken.items()
        for name, of in turns.items()
        if not name.startswith("r2d2")
    ]
    keep(__file__, page(taken, memory, large, given), figures)


def page(taken, memory, large, given) -> str:
    """All of it in words and tables."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        f"# Prediction, {date.today()}",
        "",
        f"U-Net of depth {DEPTH}, bfloat16, a scan of {'x'.join(map(str, SHAPE))} in images of {SIZE}x{SIZE},",
        f"{CLASSES} classes, {len(os.sched_getaffinity(0))} cores with AMX that others used too; {given.rounds} rounds",
        "in turn (half as many of 64 filters). Ratios of neighbouring turns: median and its 95 % interval.",
        f"`python experiments/benchmarks/prediction.py --rounds {given.rounds}`, commit {commit}.",
        "",
        "| filters | tool | volumes/s | R2D2 is so many times as fast | network alone, ms an image | so many times |",
        "|---|---|---|---|---|---|",
    ]
    for filters, turns in taken.items():
        for name, of in turns.items():
            cells = []
            for what, shown in (("volume", lambda s: f"{1 / s:.3f}"), ("network", lambda s: f"{1e3 * s / 64:.2f}")):
                middle, low, high = interval([a / b for a, b in zip(of[what], turns["r2d2"][what], strict=True)])
                cells += [shown(statistics.median(of[what])), f"{middle:.2f} ({low:.2f} to {high:.2f})"]
            lines.append(f"| {filters} | {name} | {' | '.join(cells)} |")
    shown = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in memory.items())
    lines += [
        "",
        f"Peak memory of a process that predicts one such volume, 32 filters: {shown}.",
        f"R2D2 on a scan of 512x512x300 in images of 512x512: {large[1]:.0f} MiB, {large[0]:.0f} s.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
