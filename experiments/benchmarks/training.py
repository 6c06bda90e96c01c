"""Images a second in training: R2D2's step against PyTorch's and plain Keras', and what R2D2 costs around its step.

    python experiments/benchmarks/training.py --pairs 20 --run-pairs 20

One U-Net (32 filters, depth 4), 128x128, batch 8, bfloat16, Dice + cross-entropy, SGD with momentum, on slices of
virtual patients, in the same order for all. Each tool is a process of its own that trains for a turn when it is told
to, and waits meanwhile; rounds give ratios of neighbouring turns. The peer's environment is made under
`.r2d2/benchmarks/` the first time.

- `r2d2`: `r2d2.training.learner.Learner` with its feed, one worker, all cores.
- `keras`: `Model.compile` and `train_on_batch` with `mixed_bfloat16` and Keras' own losses, batches read ahead by a
  thread.
- `pytorch`: PyTorch with MONAI's DiceCELoss, channels_last, bfloat16 autocast, batches read ahead by a thread; also
  through `torch.compile`, and with malloc's huge pages (GLIBC_TUNABLES), which helps it here. The best one counts.
- Time to the same Dice: R2D2 and PyTorch train epoch by epoch from He's initialization, and after each are asked for
  the mean Dice of the validation patients; the clock runs while they train.
- `r2d2 train`: the whole of it, with Ray, Horovod, MLflow and checkpoints, against the bare `r2d2` above. They change
  every few steps, so that both have the same machine: its processes are stopped (SIGSTOP) while the other has its turn.
  Compared are whole epochs; one ends when MLflow has it. Clocks run on meanwhile: what is done every so many seconds
  costs the whole run up to twice what it would.
- What each part gives: `r2d2` in turn with itself as it is without that part.
- `peak.cc`: what the processor's matrix units do at most, in the same rounds.

The results are printed and written beside this file, to `training.md`.
"""

import argparse
import contextlib
import json
import math
import os
import queue
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from common import Tool, environment, figure, flops_an_image, interval, keep, torch_unet

SIZE, BATCH, FILTERS, DEPTH, CLASSES, RATE = 128, 8, 32, 4, 4, 0.02
SLICES, LONG = 40, 150
"""Of each patient; more where a whole run is measured: epochs of 25 s, still shorter than a dataset's usually are."""
SLICE = 30
"""Steps after which a whole run and the bare learner change."""
PEERS = ("torch==2.13.0", "monai==1.6.1", "numpy<2.5")
HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def experiment(data: Path, size: int, batch: int) -> dict:
    """The experiment that all train."""
    return {
        "name": "training-benchmark",
        "data": {"path": str(data)},
        "preprocess": {"image_size": [size, size], "slices": {"count": SLICES, "choice": "foreground"}},
        "model": {"filters": FILTERS, "depth": DEPTH},
        "training": {"epochs": 1000, "batch_size": batch, "learning_rate": RATE, "warmup_epochs": 0},
        "cluster": {"workers": 1},
        "evaluation": {"every_epochs": 1000, "overlays": 0},
    }


def network():
    """The settings of its network."""
    from r2d2 import config

    return config.DistUNet(network="dist-unet", filters=FILTERS, depth=DEPTH)


# The tools, each in a process of its own. A tool is a function that takes a step, and one that predicts classes.


def r2d2_tool(room: Path, threads: int, without: str = "", settings: Sequence[str] = ()):
    """R2D2's learner; without one of PARTS, if that is named; with other settings, if there are."""
    from r2d2 import config, kernels
    from r2d2.data.prepare import open_prepared
    from r2d2.models import fused
    from r2d2.training import device
    from r2d2.training.learner import Learner
    from r2d2.training.state import State

    values = config.load(room / "experiment.yaml", settings)
    lanes = 1 if without == "lanes" else device.lanes(values, threads)
    if without == "kernels":
        kernels.load = lambda: None
    replace = fused.replacement
    fused.replacement = lambda *layer: name if (name := replace(*layer)) != without else None
    device.limit_threads(threads, lanes)
    ring = SimpleNamespace(size=1, rank=0, sum_gradients=list, sum_tensor=lambda t, _: t, sum=lambda a, _: a)
    about = json.loads((room / "about.json").read_text())
    learner = Learner(values, open_prepared(Path(about["prepared"])), about["training"], ring, lanes)
    state = State()
    learner.start(state)
    return lambda: learner.step(state), lambda images: learner.model.predict_on_batch(images).argmax(-1)


def keras_tool(room: Path, threads: int):
    """Keras' own training of the same network."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    from r2d2 import config, models
    from r2d2.models.precision import with_precision

    values = config.load(room / "experiment.yaml")
    plain = models.build(values.model, 1, CLASSES, values.preprocess.image_size)
    model = models.logits(with_precision(plain, "bfloat16", fuse=False))

    def loss(labels, logits):
        reference = tf.one_hot(tf.cast(labels, tf.int32), CLASSES)
        dice = keras.losses.Dice(axis=(1, 2))(reference[..., 1:], tf.nn.softmax(logits)[..., 1:])
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits) + dice

    model.compile(keras.optimizers.SGD(RATE, momentum=0.9), loss)
    batches = read_ahead(room)
    return lambda: model.train_on_batch(*next(batches)), None


def pytorch_tool(room: Path, threads: int, compiled: bool = False):
    """PyTorch with MONAI's loss."""
    import torch
    from monai.losses import DiceCELoss
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)

    model = torch_unet(FILTERS, DEPTH, CLASSES)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.logits.weight)
    model = model.to(memory_format=torch.channels_last)
    ready = torch.compile(model) if compiled else model
    loss = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1.0, smooth_dr=1.0, reduction="mean"
    )
    loss = torch.compile(loss) if compiled else loss
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, fused=True)
    batches = read_ahead(room)

    def as_images(array):
        # One channel: both layouts are the same numbers in the same order.
        return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def step():
        images, labels = next(batches)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            logits = ready(as_images(images))
        value = loss(logits.float(), torch.from_numpy(labels)[:, None])
        value.backward()
        optimizer.step()
        return value.item()

    def predict(images):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return model(as_images(images)).float().argmax(1).numpy()

    return step, predict


TOOLS = {
    "r2d2": r2d2_tool,
    "keras": keras_tool,
    "pytorch": pytorch_tool,
    "pytorch, huge pages": pytorch_tool,
    "pytorch, compiled": lambda room, threads: pytorch_tool(room, threads, compiled=True),
}
PARTS = {
    "kernels": "convolutions and their gradients by kernels of our own, instead of TensorFlow's",
    "lanes": "each thread takes its share of the minibatch's images, instead of all threads sharing each operation",
    "Concatenate": "convolutions that take a skip connection's parts, instead of a copy of both",
    "Enlargement": "transposed convolutions as products of matrices",
    "Scores": "gradients of the classes' scores in bfloat16",
}
"""Of R2D2's step, what can be left out; those with a capital are layers of `r2d2.models.fused`."""
WITHOUT = "r2d2 without "
OWN = ("r2d2", "keras")


def read_ahead(room: Path):
    """Batches of images (float32) and labels in the order of R2D2's feed, read by a thread."""
    about = json.loads((room / "about.json").read_text())
    folder = Path(about["prepared"])
    images, labels = (np.load(folder / name, mmap_mode="r") for name in ("images.npy", "labels.npy"))
    waiting = queue.Queue(4)

    def read():
        while True:
            for rows in about["order"]:
                waiting.put((images[rows].astype(np.float32), labels[rows]))

    threading.Thread(target=read, daemon=True).start()
    return iter(waiting.get, None)


def serve(tool: str, room: Path, threads: int) -> None:
    """Do what a line of standard input says: `steps N`, or `dice`."""
    left_out = tool.removeprefix(WITHOUT)
    step, predict = TOOLS[tool](room, threads) if tool in TOOLS else r2d2_tool(room, threads, left_out)
    about = json.loads((room / "about.json").read_text())
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        if line.startswith("steps"):
            wall, cores = time.perf_counter(), time.process_time()
            for _ in range(int(line.split()[1])):
                step()
            told = [time.perf_counter() - wall, time.process_time() - cores]
        else:
            told = [validation_dice(predict, about)]
        print(*told, file=answers, flush=True)


def validation_dice(predict, about: dict) -> float:
    """The mean over the validation patients and classes of the Dice of their prepared slices."""
    folder = Path(about["prepared"])
    images, labels = (np.load(folder / name, mmap_mode="r") for name in ("images.npy", "labels.npy"))
    scores = []
    for first, last in about["validation"]:
        starts = range(first, last, 8)
        found = np.concatenate([predict(images[i : min(i + 8, last)].astype(np.float32)) for i in starts])
        wanted = labels[first:last]
        for number in range(1, CLASSES):
            both = np.sum((found == number) & (wanted == number))
            scores.append(2 * both / max(1, np.sum(found == number) + np.sum(wanted == number)))
    return float(np.mean(scores))


def tool_of(name: str, room: Path, peers: Path, threads: int) -> Tool:
    """One tool's process."""
    python = sys.executable if name.startswith(OWN) else environment(peers, PEERS)
    command = [python, __file__, "--tool", name, "--room", room, "--threads", str(threads)]
    return Tool(name, command, HUGE if "huge" in name else None)


def make_room(room: Path, size: int = SIZE, batch: int = BATCH) -> None:
    """Virtual patients, prepared; the experiment; the order of images."""
    import yaml

    from r2d2 import config
    from r2d2.data.cases import find_cases
    from r2d2.data.prepare import prepare
    from r2d2.data.split import split_patients
    from r2d2.training.feed import Feed

    data = room.parent / "patients"
    if not data.exists():
        r2d2 = Path(sys.executable).with_name("r2d2")
        subprocess.run([r2d2, "data", "synthesize", "brain", data, "--patients", "12"], check=True)
    (room / "experiment.yaml").write_text(yaml.safe_dump(experiment(data, size, batch)))
    values = config.load(room / "experiment.yaml")
    dataset = find_cases(values.data)
    prepared = prepare(dataset, values.preprocess, room / "prepared")
    split = split_patients(dataset, values.data.split)
    rows = prepared.training_rows(split["training"], values.preprocess.slices)
    feed = Feed(prepared, rows, values.training.seed, batch, 1, range(1))
    steps = 40 * feed.steps_per_epoch
    about = {
        "prepared": str(prepared.folder),
        "training": list(split["training"]),
        "steps_per_epoch": feed.steps_per_epoch,
        "order": [feed.batch(step).tolist() for step in range(steps)],
        "validation": [(case.first, case.first + case.slices) for case in prepared.select(split["validation"])],
    }
    (room / "about.json").write_text(json.dumps(about))


def matrix_units(home: Path, threads: int) -> list[str]:
    """The command that says what the processor's matrix units do at most, in TFLOP/s."""
    program = home / "peak"
    source = Path(__file__).with_name("peak.cc")
    line = ["g++", "-std=c++17", "-O2", "-pthread", "-mamx-tile", "-mamx-bf16", str(source), "-o", str(program)]
    made = shutil.which("g++") and subprocess.run(line, capture_output=True).returncode == 0
    return [str(program), str(threads)] if made else ["false"]


def steps_in_turn(
    tools: list[Tool], pairs: int, steps: int, peak: list[str]
) -> tuple[dict[str, list[tuple[float, float]]], list[float]]:
    """Wall and core seconds of each tool's turns, after one to warm up; and the peaks, none without AMX."""
    taken: dict[str, list[tuple[float, float]]] = {tool.name: [] for tool in tools}
    peaks = []
    chance = random.Random(0)
    for number in range(pairs + 1):
        found = subprocess.run(peak, capture_output=True, text=True)
        if number and found.returncode == 0:
            peaks.append(float(found.stdout))
        for tool in chance.sample(tools, len(tools)):
            wall, cores = tool.ask(f"steps {steps}")
            if number:
                taken[tool.name].append((wall, cores))
        if number:
            shown = "  ".join(f"{name} {BATCH * steps / turns[-1][0]:.1f}" for name, turns in taken.items())
            print(f"round {number:>2} images/s  {shown}", flush=True)
    return taken, peaks


def to_dice(tools: list[Tool], steps_per_epoch: int, target: float, most: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of training and Dice after each epoch, until both have reached the target."""
    curves: dict[str, list[tuple[float, float]]] = {tool.name: [] for tool in tools}
    for _ in range(most):
        for tool in tools:
            before = curves[tool.name][-1][0] if curves[tool.name] else 0.0
            seconds = before + tool.ask(f"steps {steps_per_epoch}")[0]
            curves[tool.name].append((seconds, tool.ask("dice")[0]))
        print(
            "  ".join(f"{name} {curve[-1][0]:.0f} s {curve[-1][1]:.3f}" for name, curve in curves.items()), flush=True
        )
        if all(curve[-1][1] >= target for curve in curves.values()):
            break
    return curves


def whole_runs(room: Path, peers: Path, threads: int, pairs: int) -> list[tuple[float, float, float, float]]:
    """Seconds an epoch of `r2d2 train` and of the bare learner in turn, and core seconds of both."""
    import psutil

    about = json.loads((room / "about.json").read_text())
    home = room / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    log = (home / "log").open("w")
    run = [Path(sys.executable).with_name("r2d2"), "train", room / "experiment.yaml", f"preprocess.slices.count={LONG}"]
    steps = about["steps_per_epoch"] * LONG // SLICES
    driver = subprocess.Popen(
        run, env=os.environ | {"R2D2_HOME": str(home)}, stdout=log, stderr=log, start_new_session=True
    )

    def tree() -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        return []

    def send(number: int, processes: list[psutil.Process]) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def cores() -> float:
        times = [process.cpu_times() for process in tree()]
        return sum(t.user + t.system for t in times)

    known = 0

    def epochs() -> int:
        nonlocal known
        store = f"file:{home}/mlflow.db?mode=ro"
        with contextlib.suppress(sqlite3.Error), sqlite3.connect(store, uri=True) as open_store:
            # It may have been stopped while it wrote: then what was known before is known.
            known = open_store.execute("select max(step) from metrics where key = 'train/loss'").fetchone()[0] or known
        return known

    def epoch_ends(number: int, until: float = math.inf) -> None:
        # Asked for only when the file has changed: asking all the time would take from what is measured.
        deadline, seen = time.monotonic() + 300, None
        while time.perf_counter() < until:
            with contextlib.suppress(FileNotFoundError):
                changed = (home / "mlflow.db").stat().st_mtime_ns
                if changed != seen:
                    seen = changed
                    if epochs() >= number:
                        return
            if time.monotonic() > deadline or driver.poll() is not None:
                raise SystemExit(f"r2d2 train failed; see {home}/log")
            time.sleep(0.01)

    def turn_of(seconds: float, ends: int) -> float:
        """Let it go on for so long, or until the epoch has ended: what it took, signals included."""
        processes = tree()
        began = time.perf_counter()
        send(signal.SIGCONT, processes)
        epoch_ends(ends, began + seconds)
        send(signal.SIGSTOP, processes)
        return time.perf_counter() - began

    turns, bare = [], tool_of("r2d2", room, peers, threads)
    try:
        epoch_ends(2)
        send(signal.SIGSTOP, tree())
        for number in range(pairs + 1):
            ends, left, before = epochs() + 1, steps, cores()
            whole = alone = spent = 0.0
            while left:
                some = min(left, SLICE)
                bare.signal(signal.SIGCONT)
                wall, used = bare.ask(f"steps {some}")
                bare.signal(signal.SIGSTOP)  # or it would read ahead
                left, alone, spent = left - some, alone + wall, spent + used
                if epochs() < ends:  # the last turn takes it to the epoch's end
                    whole += turn_of(wall if left else math.inf, ends)
            if number:
                turns.append((whole, alone, cores() - before, spent))
                print(f"epoch of {whole:.2f} s, bare {alone:.2f} s", flush=True)
    finally:
        send(signal.SIGCONT, tree())
        send(signal.SIGKILL, tree())
        bare.signal(signal.SIGCONT)
        bare.close()
    return turns


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--run-pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--dice", type=float, default=0.85)
    parser.add_argument("--home", type=Path, default=Path(".r2d2/benchmarks"))
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--tool")
    parser.add_argument("--room", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    if given.tool == "prepare":
        make_room(given.room)
        return
    if given.tool:
        serve(given.tool, given.room, given.threads)
        return
    home = given.home.absolute()
    room, peers = home / "training", given.peers or home / "torch"
    room.mkdir(parents=True, exist_ok=True)
    environment(peers, PEERS)
    subprocess.run([sys.executable, __file__, "--tool", "prepare", "--room", room], check=True)
    per_epoch = json.loads((room / "about.json").read_text())["steps_per_epoch"]

    tools = [tool_of(name, room, peers, given.threads) for name in TOOLS]
    taken, peaks = steps_in_turn(tools, given.pairs, given.steps, matrix_units(home, given.threads))
    for tool in tools:
        tool.close()
    from r2d2 import kernels

    in_force = [WITHOUT + part for part in PARTS if part != "kernels" or kernels.load()]
    parts = [tool_of(name, room, peers, given.threads) for name in ("r2d2", *in_force)]
    without, _ = steps_in_turn(parts, given.pairs, given.steps, ["false"])
    for tool in parts:
        tool.close()
    best = min((n for n in taken if n not in OWN), key=lambda n: statistics.median(wall for wall, _ in taken[n]))
    pair = [tool_of(name, room, peers, given.threads) for name in ("r2d2", best)]
    curves = to_dice(pair, per_epoch, given.dice, 20)
    for tool in pair:
        tool.close()
    turns = whole_runs(room, peers, given.threads, given.run_pairs)
    walls = {name: [wall for wall, _ in of] for name, of in taken.items()}
    figures = [
        figure(f"training/{name}", f"A training step: {name}", "s a turn", walls["r2d2"], walls[name])
        for name in walls
        if name != "r2d2"
    ]
    whole, bare = ([turn[number] for turn in turns] for number in (0, 1))
    figures.append(figure("training/overhead", "r2d2 train: the bare learner", "s an epoch", whole, bare))
    keep(__file__, page(taken, peaks, without, curves, turns, given, per_epoch), figures)


def page(taken, peaks, without, curves, turns, given, per_epoch) -> str:
    """All of it in words and tables."""
    images = BATCH * given.steps
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        f"# Training, {date.today()}",
        "",
        f"U-Net of {FILTERS} filters and depth {DEPTH}, {SIZE}x{SIZE}, batch {BATCH}, bfloat16, {given.threads}",
        f"threads on {len(os.sched_getaffinity(0))} cores; {given.pairs} rounds in turn. Ratios of neighbouring turns:",
        f"median and its 95 % interval. `python experiments/benchmarks/training.py --pairs {given.pairs} --run-pairs "
        f"{given.run_pairs}`, commit {commit}.",
        "",
        "| tool | images/s | core-ms an image | R2D2 is so many times as fast |",
        "|---|---|---|---|",
    ]
    for name, turns_of in taken.items():
        speed = statistics.median(images / wall for wall, _ in turns_of)
        cost = statistics.median(1e3 * cores / images for _, cores in turns_of)
        middle, low, high = interval([w / mine for (w, _), (mine, _) in zip(turns_of, taken["r2d2"], strict=True)])
        lines.append(f"| {name} | {speed:.1f} | {cost:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    if peaks:
        from r2d2 import models

        each = flops_an_image(models.build(network(), 1, CLASSES, (SIZE, SIZE))) * images / 1e12
        middle, low, high = interval([each / wall / most for (wall, _), most in zip(taken["r2d2"], peaks, strict=True)])
        lines += [
            "",
            f"R2D2's convolutions take {middle:.0%} ({low:.0%} to {high:.0%}) of what the matrix units of these cores",
            f"do at most in bfloat16 (`peak.cc`, in the same rounds: {statistics.median(peaks):.2f} TFLOP/s).",
        ]
    lines += ["", "## What each part gives", "", "| part | the step is so many times as fast with it |", "|---|---|"]
    for name in list(without)[1:]:
        pairs = zip(without[name], without["r2d2"], strict=True)
        middle, low, high = interval([wall / mine for (wall, _), (mine, _) in pairs])
        lines.append(f"| {PARTS[name.removeprefix(WITHOUT)]} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    lines += [
        "",
        f"## Time to a validation Dice of {given.dice:g}",
        "",
        "| tool | epochs | seconds of training |",
        "|---|---|---|",
    ]
    for name, curve in curves.items():
        reached = next((n for n, (_, dice) in enumerate(curve) if dice >= given.dice), None)
        told = f"{reached + 1} | {curve[reached][0]:.1f}" if reached is not None else f"not in {len(curve)} | -"
        lines.append(f"| {name} | {told} |")
    middle, low, high = interval([whole / bare for whole, bare, _, _ in turns])
    steps = per_epoch * LONG // SLICES
    costs = [1e3 * statistics.median(turn[2 + i] for turn in turns) / (steps * BATCH) for i in range(2)]
    speeds = [steps * BATCH / statistics.median(turn[i] for turn in turns) for i in range(2)]
    lines += [
        "",
        "## All of `r2d2 train` around the step",
        "",
        f"{len(turns)} pairs of epochs of {steps} steps, {SLICE} in turn, with Ray, Horovod on one rank, MLflow and a",
        f"checkpoint an epoch against the bare learner: {middle - 1:+.1%} time ({low - 1:+.1%} to {high - 1:+.1%});",
        f"{speeds[0]:.1f} against {speeds[1]:.1f} images/s, {costs[0]:.1f} against {costs[1]:.1f} core-ms an image.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
