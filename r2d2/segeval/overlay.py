"""A picture of a scan with its reference and its prediction, for people to judge what a number hides."""

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
"""Okabe and Ito's palette, which colour-blind people can tell apart."""


def draw(
    image: np.ndarray, masks: Mapping[str, np.ndarray], labels: Mapping[int, str], title: str, aspect: float = 1.0
) -> Figure:
    """One slice: the image, then the image under each of the masks.

    Args:
        image: (rows, columns), any unit; shown between its 1st and 99th percentile.
        masks: Label masks of that shape by what they are, e.g. `{"reference": ..., "prediction": ...}`.
        labels: The classes' names by value; 0, the background, is left clear.
        title: What stands above.
        aspect: Height of a pixel over its width, in mm.

    Returns:
        A figure to be saved with `figure.savefig(path)`.
    """
    panels = 1 + len(masks)
    height = 3.2 * min(max(image.shape[0] * aspect / image.shape[1], 0.5), 2.0)
    figure = Figure(figsize=(3.2 * panels, height + 0.9), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    low, high = np.percentile(image, [1, 99])
    for number, (name, mask) in enumerate([("scan", None), *masks.items()]):
        axes = figure.add_subplot(1, panels, number + 1)
        axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect, interpolation="nearest")
        if mask is not None:
            axes.imshow(_coloured(mask, len(labels)), aspect=aspect, interpolation="nearest")
        axes.set_title(name, fontsize=10)
        axes.set_axis_off()
    classes = [(COLOURS[(value - 1) % len(COLOURS)], name) for value, name in sorted(labels.items()) if value > 0]
    handles = [Patch(color=colour, label=name) for colour, name in classes]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def upright(slice_xy: np.ndarray) -> np.ndarray:
    """A slice (first axis, second axis) of a canonical volume as people look at it: second axis up, first to the left.

    For an axial slice that is the radiologist's view: the front on top, the patient's left on the right.
    """
    return np.flipud(np.fliplr(slice_xy.T)) if slice_xy.ndim == 2 else slice_xy


def _coloured(mask: np.ndarray, num_classes: int) -> np.ndarray:
    table = np.zeros((max(num_classes, int(mask.max(initial=0)) + 1), 4))
    for value in range(1, len(table)):
        colour = COLOURS[(value - 1) % len(COLOURS)].lstrip("#")
        table[value] = [*(int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)), 0.55]
    return table[mask]
