"""What an augmented image costs in the feed, in core-seconds, beside what a training step costs for it.

Command:  python experiments/benchmarks/feed.py     (TF_CPP_MIN_LOG_LEVEL=2 keeps TensorFlow quiet)
Measured: processor time of this process (all its threads) per image, medians over rounds in which every part has its
          turn. One thread computes, so that no thread's waiting counts as work.
Parts:    the feed of R2D2 from memory-mapped float16 arrays, batch 8, 240x240x1: plain, with Table 1 (rotation, zoom,
          shift), with every operation; the same Table 1 by OpenCV, image by image, in the feed's NumPy reader; the
          training step of a U-Net of 32 filters and depth 4 in bfloat16 (Dice + cross-entropy, SGD, 4 classes).
Target:   the feed with Table 1 at most 10 % of the step.
Record:   `feed.md` beside this file.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import tensorflow as tf
from common import figure, keep

from r2d2 import config, models
from r2d2.imgmed import augment
from r2d2.models.losses import dice_cross_entropy
from r2d2.models.precision import choose, with_precision
from r2d2.training import optimizers
from r2d2.training.device import limit_threads
from r2d2.training.feed import Feed
from r2d2.training.step import Step

SIZE, BATCH, SLICES, CLASSES = 240, 8, 512, 4
EVERYTHING = augment.Ranges((-45, 45), (0.8, 1.2), (0, 0.05), ("rows", "columns"), 0.05, 4, (0.7, 1.5), 0.3, (0.0, 0.1))


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30, help="of the feed in a round; the network takes a tenth")
    arguments = parser.parse_args()
    limit_threads(1)
    cv2.setNumThreads(1)

    with tempfile.TemporaryDirectory() as folder:
        prepared = memory_mapped(Path(folder))
        feeds = {
            "feed, plain": stream(prepared, None),
            "feed, Table 1 (TensorFlow, the batch)": stream(prepared, augment.TABLE_1),
            "feed, every operation": stream(prepared, EVERYTHING),
            "feed, Table 1 (OpenCV, image by image)": stream_by_opencv(prepared),
        }
        step = training_step()
        batch = next(feeds["feed, plain"])
        parts: dict[str, tuple[Callable[[], object], int]] = {
            name: (lambda batches=batches: next(batches), arguments.steps) for name, batches in feeds.items()
        }
        parts["training step, bfloat16"] = lambda: step(*batch), max(1, arguments.steps // 10)
        seconds: dict[str, list[float]] = {name: [] for name in parts}
        for number in range(arguments.rounds + 1):
            for name, (part, times) in parts.items():
                cost = core_seconds(part, times) / BATCH
                if number:  # the first round traces and warms up
                    seconds[name].append(cost)

    step_s = seconds.pop("training step, bfloat16")
    whole = statistics.median(step_s)
    lines = [
        f"# The feed, {date.today()}",
        "",
        f"One thread of {len(os.sched_getaffinity(0))} cores; {arguments.rounds} rounds in turn.",
        "`python experiments/benchmarks/feed.py`",
        "",
        "| part | core-ms an image (least to largest) | of the step |",
        "|---|---|---|",
    ]
    for name, values in seconds.items():
        spread = f"{1e3 * min(values):.2f} to {1e3 * max(values):.2f}"
        median = statistics.median(values)
        lines.append(f"| {name} | {1e3 * median:.2f} ({spread}) | {median / whole:.1%} |")
    lines.append(f"| training step, {choose('auto')} | {1e3 * whole:.1f} | |")
    figures = [
        figure(f"feed/{name}", f"{name}: a training step", "s an image", of, step_s) for name, of in seconds.items()
    ]
    keep(__file__, "\n".join(lines) + "\n", figures)


def core_seconds(part: Callable[[], object], times: int) -> float:
    """Processor time of one call, on average over so many."""
    started = time.process_time()
    for _ in range(times):
        part()
    # The feed reads ahead: wait until it has made as many batches as were taken.
    before = started
    while (now := time.process_time()) - before > 1e-3:
        before = now
        time.sleep(0.1)
    return (now - started) / times


def memory_mapped(folder: Path) -> SimpleNamespace:
    """What the feed reads of a prepared dataset: images like z-scored scans, masks of four classes."""
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.float16, (SLICES, SIZE, SIZE, 1))
    masks = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.uint8, (SLICES, SIZE, SIZE))
    for i in range(SLICES):
        image = cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE)).astype(np.float32), (0, 0), 3)
        images[i, :, :, 0] = image / image.std()
        masks[i] = np.digitize(image / image.std(), [0.5, 1.0, 1.5])
    return SimpleNamespace(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        masks=np.load(folder / "labels.npy", mmap_mode="r"),
        pixel_mm=np.ones((SLICES, 2)),
    )


def feed(prepared: SimpleNamespace, ranges: augment.Ranges | None) -> Feed:
    """The feed of one worker alone."""
    return Feed(prepared, np.arange(SLICES), 0, BATCH, 1, range(1), ranges)


def stream(prepared: SimpleNamespace, ranges: augment.Ranges | None) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Its batches, as a training takes them."""
    return iter(feed(prepared, ranges).stream(0, 10**6))


def stream_by_opencv(prepared: SimpleNamespace) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Table 1 by `imgmed.augment.apply` in the NumPy reader, the rest as the feed has it."""
    order = feed(prepared, None)

    def read(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epoch = int(step) // order.steps_per_epoch
        pairs = [
            augment.apply(
                augment.draw(augment.TABLE_1, 0, epoch, int(row), (SIZE, SIZE)),
                prepared.images[row].astype(np.float32),
                prepared.masks[row],
            )
            for row in order.batch(int(step))
        ]
        return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])

    @tf.autograph.experimental.do_not_convert
    def load(step: tf.Tensor) -> list[tf.Tensor]:
        return tf.numpy_function(read, [step], (tf.float32, tf.uint8))

    options = tf.data.Options()
    options.autotune.enabled = False
    return iter(tf.data.Dataset.range(10**6).map(load).prefetch(4).with_options(options))


def training_step() -> Callable[[tf.Tensor, tf.Tensor], object]:
    """A step of the U-Net, as a worker alone takes it."""
    keras.utils.set_random_seed(0)
    network = models.build(config.DistUNet(filters=32, depth=4), 1, CLASSES, (SIZE, SIZE))
    model = with_precision(network, "bfloat16")
    optimizer = optimizers.build(config.Training())
    optimizer.build(model.trainable_variables)
    alone = SimpleNamespace(size=1, sum_gradients=list, sum_tensor=lambda tensor, _: tensor)
    step = Step(model, model.trainable_variables, optimizer, dice_cross_entropy, [], BATCH, [0], 1, alone)
    return lambda images, labels: step(images, labels, 0, 1e-3)


if __name__ == "__main__":
    main()
