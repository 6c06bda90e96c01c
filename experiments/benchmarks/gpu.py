"""Images a second in training on one GPU: R2D2's step, as it is and through XLA, against Keras' and PyTorch's.

    python experiments/benchmarks/gpu.py [--rounds 10] [--peer-python PYTHON]

U-Nets without normalization (depth 4), Dice + cross-entropy, SGD with momentum, bfloat16, on slices of virtual patients
in the same order for all. Each tool is a process of its own with its own feed, which trains for a turn when it is told
to; rounds give ratios of neighbouring turns.

- `r2d2`: `r2d2.training.learner.Learner` with its feed, one worker; without XLA: `training.xla: false`.
- `keras`: `Model.compile` and `train_on_batch`; on a GPU Keras compiles through XLA by itself.
- `pytorch`: by itself, through `torch.compile`, and through it with CUDA graphs (`reduce-overhead`); channels_last,
  bfloat16 autocast, cuDNN's choice by trial, batches pinned and copied beside the computing, MONAI's DiceCELoss, the
  loss never read within a turn.

The peer's environment is made under `.r2d2/benchmarks/`, unless a Python that has MONAI and torch is named. Needs a
GPU that TensorFlow sees. The results are printed and written beside this file, to `gpu.md`.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path
from queue import Queue

import training
from common import Tool, environment, figure, flops_an_image, interval, keep, torch_unet

SETTINGS = {"32 filters, 128x128, batch 8": (32, 128, 8), "64 filters, 512x512, batch 8": (64, 512, 8)}
"""Filters, size and batch: what the processor's benchmark trains, and the paper's network and images."""
STEPS = {8 * 128 * 128: 100, 8 * 512 * 512: 40}
"""Of a turn, by the pixels of a minibatch."""
OURS = {"r2d2": (), "r2d2 without XLA": ("training.xla=false",)}
PEERS = {"pytorch": None, "pytorch, compiled": "default", "pytorch, CUDA graphs": "reduce-overhead"}


def pytorch_tool(room: Path, mode: str | None):
    """PyTorch with MONAI's loss, compiled in a mode or not at all: what takes so many steps."""
    import torch
    from monai.losses import DiceCELoss

    filters = json.loads((room / "about.json").read_text())["filters"]
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    model = torch_unet(filters, training.DEPTH, training.CLASSES).to("cuda", memory_format=torch.channels_last)
    ready = torch.compile(model, mode=mode) if mode else model
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1.0, smooth_dr=1.0)
    loss = torch.compile(loss) if mode else loss
    optimizer = torch.optim.SGD(model.parameters(), lr=training.RATE, momentum=0.9, fused=True)
    there: Queue = Queue(4)

    def copy() -> None:
        for images, labels in training.read_ahead(room):
            batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
            pinned = batch.pin_memory(), torch.from_numpy(labels)[:, None].pin_memory()
            there.put([tensor.to("cuda", non_blocking=True) for tensor in pinned])

    threading.Thread(target=copy, daemon=True).start()

    def steps(count: int) -> None:
        for _ in range(count):
            images, labels = there.get()
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16):
                logits = ready(images)
            loss(logits.float(), labels).backward()
            optimizer.step()
        torch.cuda.synchronize()

    return steps


def tensorflow_tool(tool: str, room: Path):
    """R2D2's learner, or Keras' own training: what takes so many steps."""
    from r2d2.training import device

    device.use_gpu(0)
    threads = len(os.sched_getaffinity(0))
    if tool == "keras":
        step, _ = training.keras_tool(room, threads)
    else:
        step, _ = training.r2d2_tool(room, threads, settings=OURS[tool])

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    return steps


def serve(tool: str, room: Path) -> None:
    """Take as many steps as a line of standard input says, and tell the seconds."""
    steps = pytorch_tool(room, PEERS[tool]) if tool in PEERS else tensorflow_tool(tool, room)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        began = time.perf_counter()
        steps(int(line))
        print(time.perf_counter() - began, file=answers, flush=True)


def make_room(room: Path, filters: int, size: int, batch: int) -> None:
    """The prepared data, the experiment and the order of images of a setting."""
    import yaml

    room.mkdir(parents=True, exist_ok=True)
    training.make_room(room, size, batch)
    about = json.loads((room / "about.json").read_text())
    (room / "about.json").write_text(json.dumps(about | {"filters": filters}))
    values = yaml.safe_load((room / "experiment.yaml").read_text())
    values["model"]["filters"] = filters
    (room / "experiment.yaml").write_text(yaml.safe_dump(values))


def in_turn(tools: list[Tool], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each tool's turns; the first, in which everything is compiled, does not count."""
    taken: dict[str, list[float]] = {tool.name: [] for tool in tools}
    chance = random.Random(0)
    for number in range(rounds + 1):
        for tool in chance.sample(tools, len(tools)):
            (seconds,) = tool.ask(str(steps))
            print(f"round {number:>2} of {steps} steps: {seconds:7.3f} s  {tool.name}", flush=True)
            if number:
                taken[tool.name].append(seconds)
    return taken


def card() -> str:
    """The GPU's name and driver."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--home", type=Path, default=Path(".r2d2/benchmarks"))
    parser.add_argument("--peer-python")
    parser.add_argument("--tool")
    parser.add_argument("--room", type=Path)
    given = parser.parse_args()
    if given.tool:
        serve(given.tool, given.room)
        return
    home = given.home.absolute() / "gpu"
    peer = given.peer_python or environment(given.home.absolute() / "torch-gpu", training.PEERS)
    lines = [
        f"# Training on a GPU, {date.today()}",
        "",
        f"{card()}; U-Nets of depth {training.DEPTH} in bfloat16, {given.rounds} rounds in turn. Ratios of",
        "neighbouring turns: median and its 95 % interval. `python experiments/benchmarks/gpu.py`.",
    ]
    figures = []
    for name, (filters, size, batch) in SETTINGS.items():
        room = home / f"{filters}-{size}-{batch}"
        # In a process of its own, for TensorFlow keeps the GPU that it has seen.
        made = f"import gpu, pathlib; gpu.make_room(pathlib.Path({str(room)!r}), {filters}, {size}, {batch})"
        subprocess.run([sys.executable, "-c", made], cwd=Path(__file__).parent, check=True)
        tools = [
            Tool(name, [peer if name in PEERS else sys.executable, __file__, "--tool", name, "--room", room])
            for name in (*OURS, "keras", *PEERS)
        ]
        steps = STEPS[batch * size * size]
        taken = in_turn(tools, given.rounds, steps)
        for tool in tools:
            tool.close()
        lines += ["", f"## {name}", "", "| tool | images/s | ms a step | TFLOP/s | R2D2 is so many times as fast |"]
        lines.append("|---|---|---|---|---|")
        work = flops_an_image(network(filters, size)) * batch / 1e12
        for tool, turns in taken.items():
            step = statistics.median(turns) / steps
            middle, low, high = interval([w / mine for w, mine in zip(turns, taken["r2d2"], strict=True)])
            lines.append(
                f"| {tool} | {batch / step:.0f} | {1e3 * step:.2f} | {work / step:.0f} | "
                f"{middle:.2f} ({low:.2f} to {high:.2f}) |"
            )
        figures += [
            figure(f"gpu/{filters}-{size}/{tool}", f"A step on a GPU, {name}: {tool}", "s a turn", taken["r2d2"], turns)
            for tool, turns in taken.items()
            if tool not in OURS
        ]
    keep(__file__, "\n".join(lines) + "\n", figures)


def network(filters: int, size: int):
    """Dist-U-Net with so many filters, for images of this size."""
    import tensorflow as tf

    from r2d2 import config, models

    tf.config.set_visible_devices([], "GPU")  # which is the tools'
    values = config.DistUNet(network="dist-unet", filters=filters, depth=training.DEPTH)
    return models.build(values, 1, training.CLASSES, (size, size))


if __name__ == "__main__":
    main()
