"""SegEval against its peers, in milliseconds: one pair of 240x240x155 masks with four classes.

    python experiments/benchmarks/segeval.py --rounds 15

- The paper's five scores (Dice, pixel accuracy, mean accuracy, mean IoU, frequency-weighted IoU) of all classes:
  SegEval; scikit-learn, MONAI and torchmetrics, this both by its functions for each score and by its confusion matrix;
  and numpy's bincount, which is what one would write oneself.
- HD95 and surface Dice at 2 mm of one class of a tumour's size (some 90 ml): SegEval, MONAI, SimpleITK (contours and
  Maurer's distance maps), the surface-distance package, whose surfaces lie between voxels and so give other numbers.

Each tool is a process of its own that answers when it is asked, in a random order; all may use all cores. The five must
agree to 1e-6 (torchmetrics and MONAI count in float32), SegEval's distances with MONAI's to 1e-6, or the benchmark
fails. The peers' environment is made under `.r2d2/benchmarks/` the first time. The results are printed and written
beside this file, to `segeval.md`. `--record FILE` writes what MONAI says of the tests' small masks instead.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
from common import Tool, environment, figure, keep

SHAPE, CLASSES, TOLERANCE = (240, 240, 155), 4, 2.0
PEERS = (
    "torch==2.13.0",
    "monai==1.6.1",
    "torchmetrics==1.9.0",
    "scikit-learn==1.9.0",
    "simpleitk==2.5.7",
    "surface-distance==0.1",
    "scipy",
    "numpy<2.5",
)


def masks() -> np.ndarray:
    """A reference and a prediction, (2, X, Y, Z) uint8: nested blobs, as edema, core and enhancing tumour are."""
    from scipy.ndimage import gaussian_filter

    where = [axis.astype(np.float32) for axis in np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]]
    found = np.zeros((2, *SHAPE), np.uint8)
    for number in range(2):
        noise = gaussian_filter(np.random.default_rng(number).normal(size=SHAPE).astype(np.float32), 6)
        centre, radii = (120 + 2 * number, 110 + number, 80 - number), (30 - number, 27 + number, 24 + number)
        away = sum(((x - c) / r) ** 2 for x, c, r in zip(where, centre, radii, strict=True)) ** 0.5
        away += 0.12 * noise / noise.std()
        for value, size in ((1, 1.0), (2, 0.7), (3, 0.4)):
            found[number][away < size] = value
    return found


def five(matrix: np.ndarray) -> list[float]:
    """The paper's five, plainly."""
    matrix = np.asarray(matrix, np.float64)
    right, reference, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    iou = right / (reference + predicted - right)
    means = [np.mean(2 * right / (reference + predicted)), right.sum() / matrix.sum(), np.mean(right / reference)]
    return [float(value) for value in (*means, iou.mean(), (reference * iou).sum() / matrix.sum())]


def segeval_five(left, right):
    """SegEval's confusion matrix and scores."""
    from r2d2 import segeval

    def work():
        found = segeval.scores(segeval.confusion_matrix(left, right, CLASSES))
        names = ("mean_dice", "pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")
        return [float(getattr(found, name)) for name in names]

    return work


def sklearn_five(left, right):
    """scikit-learn's confusion matrix."""
    from sklearn.metrics import confusion_matrix

    return lambda: five(confusion_matrix(left.ravel(), right.ravel(), labels=range(CLASSES)))


def numpy_five(left, right):
    """A histogram of pairs."""
    return lambda: five(
        np.bincount(CLASSES * left.ravel() + right.ravel(), minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    )


def torchmetrics_five(left, right):
    """Torchmetrics' confusion matrix."""
    import torch
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    pair = [torch.from_numpy(right).long(), torch.from_numpy(left).long()]
    return lambda: five(multiclass_confusion_matrix(*pair, num_classes=CLASSES, validate_args=False).numpy())


def torchmetrics_each(left, right):
    """Five functions of torchmetrics functions, as its users call them."""
    import torch
    from torchmetrics.functional import accuracy, f1_score, jaccard_index

    pair = [torch.from_numpy(right).ravel(), torch.from_numpy(left).ravel().long()]
    what = {"task": "multiclass", "num_classes": CLASSES}
    calls = [(f1_score, "macro"), (accuracy, "micro"), (accuracy, "macro"), (jaccard_index, "macro")]
    calls.append((jaccard_index, "weighted"))
    return lambda: [float(call(*pair, average=average, **what)) for call, average in calls]


def monai_five(left, right):
    """MONAI's confusion matrices of each class; masks already one-hot."""
    import torch
    from monai.metrics import get_confusion_matrix

    pair = [
        torch.from_numpy(np.stack([mask == value for value in range(CLASSES)])[None].astype(np.float32))
        for mask in (right, left)
    ]

    def work():
        tp, fp, _, fn = get_confusion_matrix(*pair)[0].double().numpy().T
        iou, reference = tp / (tp + fp + fn), tp + fn
        dice = np.mean(2 * tp / (2 * tp + fp + fn))
        values = (dice, tp.sum() / left.size, np.mean(tp / reference), iou.mean(), (reference * iou).sum() / left.size)
        return [float(value) for value in values]

    return work


def segeval_distances(left, right):
    """SegEval's surfaces."""
    from r2d2 import segeval

    def work():
        found = segeval.surface_distances(left == 1, right == 1, (1.0, 1.0, 1.0))
        return [found.hausdorff(95), found.dice(TOLERANCE)]

    return work


def monai_distances(left, right):
    """MONAI's two metrics."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    def work():
        pair = [torch.from_numpy(mask == 1)[None, None] for mask in (right, left)]
        far = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=(1.0, 1.0, 1.0))
        near = compute_surface_dice(*pair, [TOLERANCE], include_background=True, spacing=(1.0, 1.0, 1.0))
        return [float(far), float(near)]

    return work


def simpleitk_distances(left, right):
    """Contours, and distance maps around them."""
    import SimpleITK as sitk  # noqa: N813

    def work():
        contours, maps = [], []
        for mask in (left, right):
            image = sitk.GetImageFromArray((mask == 1).astype(np.uint8))
            contour = sitk.BinaryContour(image, fullyConnected=False)
            contours.append(sitk.GetArrayViewFromImage(contour) > 0)
            maps.append(
                sitk.GetArrayFromImage(
                    sitk.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True)
                )
            )
        there, back = np.abs(maps[1][contours[0]]), np.abs(maps[0][contours[1]])
        near = np.concatenate([there, back]) <= TOLERANCE
        return [float(max(np.percentile(there, 95), np.percentile(back, 95))), float(near.mean())]

    return work


def deepmind_distances(left, right):
    """The surface-distance package."""
    import surface_distance

    def work():
        found = surface_distance.compute_surface_distances(left == 1, right == 1, (1.0, 1.0, 1.0))
        return [
            float(surface_distance.compute_robust_hausdorff(found, 95)),
            float(surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE)),
        ]

    return work


TOOLS = {
    "five": {
        "SegEval": segeval_five,
        "scikit-learn": sklearn_five,
        "torchmetrics, five scores": torchmetrics_each,
        "torchmetrics' confusion matrix": torchmetrics_five,
        "MONAI": monai_five,
        "numpy's bincount": numpy_five,
    },
    "distances": {
        "SegEval": segeval_distances,
        "MONAI": monai_distances,
        "SimpleITK": simpleitk_distances,
        "surface-distance": deepmind_distances,
    },
}


def serve(what: str, tool: str, room: Path) -> None:
    """Answer each line with the milliseconds that the work took, and what it found."""
    left, right = np.load(room / "masks.npy")
    work = TOOLS[what][tool](left, right)
    answers, sys.stdout = sys.stdout, sys.stderr
    for _ in sys.stdin:
        began = time.perf_counter()
        found = work()
        print(1e3 * (time.perf_counter() - began), *found, file=answers, flush=True)


def record(file: Path) -> None:
    """What MONAI says of the small masks of tests/helpers/blobs.py."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import monai
    import torch
    from helpers.blobs import blobs
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    told = []
    cases = [
        ((14, 13, 12), 0.3, (3.0, 2.0, 1.0)),
        ((20, 18, 22), 0.1, (1.0, 1.0, 1.0)),
        ((9, 25, 16), 0.5, (0.5, 4.0, 2.0)),
    ]
    for seed in range(12):
        shape, part, spacing = cases[seed % len(cases)]
        left, right = blobs(seed, shape, part)
        pair = [torch.from_numpy(mask)[None, None] for mask in (right, left)]
        settings = {"include_background": True, "spacing": spacing}
        numbers = {
            "hausdorff": compute_hausdorff_distance(*pair, **settings),
            "hd95": compute_hausdorff_distance(*pair, percentile=95, **settings),
            "assd": compute_average_surface_distance(*pair, symmetric=True, **settings),
            "surface_dice_2mm": compute_surface_dice(*pair, [TOLERANCE], **settings),
        }
        made = {"seed": seed, "shape": shape, "part": part, "spacing": spacing}
        told.append(made | {name: float(number) for name, number in numbers.items()})
    file.write_text(json.dumps({"monai": monai.__version__, "masks": told}, indent=1) + "\n")


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--home", type=Path, default=Path(".r2d2/benchmarks"))
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--what")
    parser.add_argument("--tool")
    parser.add_argument("--room", type=Path)
    given = parser.parse_args()
    if given.tool:
        serve(given.what, given.tool, given.room)
        return
    room = given.home.absolute() / "segeval"
    python = environment(given.peers or given.home.absolute() / "segeval-peers", PEERS)
    if given.record:
        if Path(sys.prefix) == python.parent.parent:
            record(given.record)
        else:
            subprocess.run([python, *sys.argv], check=True)
        return
    room.mkdir(parents=True, exist_ok=True)
    np.save(room / "masks.npy", masks())
    figures = []
    lines = [
        f"# SegEval, {date.today()}",
        "",
        f"240x240x155, {CLASSES} classes, {len(os.sched_getaffinity(0))} cores; {given.rounds} rounds in turn. Ratios",
        "of neighbouring turns: median and its 95 % interval. `python experiments/benchmarks/segeval.py`.",
    ]
    for what, title in (("five", "The paper's five scores"), ("distances", "HD95 and surface Dice of one class")):
        tools = []
        for name in TOOLS[what]:
            own = sys.executable if name == "SegEval" else python
            tools.append(Tool(name, [own, __file__, "--what", what, "--tool", name, "--room", room]))
        taken, found = {tool.name: [] for tool in tools}, {}
        chance = random.Random(0)
        for number in range(given.rounds + 1):
            for tool in chance.sample(tools, len(tools)):
                milliseconds, *found[tool.name] = tool.ask("go")
                if number:
                    taken[tool.name].append(milliseconds)
        for tool in tools:
            tool.close()
        alike = TOOLS[what] if what == "five" else ("MONAI",)
        for name in alike:
            np.testing.assert_allclose(found["SegEval"], found[name], rtol=1e-6, err_msg=name)
        lines += [
            "",
            f"## {title}",
            "",
            "| tool | ms | SegEval is so many times as fast | found |",
            "|---|---|---|---|",
        ]
        for name, times in taken.items():
            one = figure(f"segeval/{what}/{name}", f"{title}: {name}", "ms", taken["SegEval"], times)
            numbers = ", ".join(f"{value:.6g}" for value in found[name])
            lines.append(f"| {name} | {one.peer:.1f} | {one.ratio:.1f} ({one.low:.1f} to {one.high:.1f}) | {numbers} |")
            figures += [one] if name != "SegEval" else []
    keep(__file__, "\n".join(lines) + "\n", figures)


if __name__ == "__main__":
    main()
