"""A picture of a scan with its reference and its prediction, for people to judge what a number hides."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from r2d2.segeval.summary import foreground

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
"""Okabe and Ito's palette, which colour-blind people can tell apart."""


@dataclass(frozen=True)
class Panel:
    """An image (rows, columns), in any unit, what it is, and the label mask (rows, columns) that lies over it."""

    image: np.ndarray
    title: str = ""
    mask: np.ndarray | None = None


def draw(
    image: np.ndarray, masks: Mapping[str, np.ndarray], labels: Mapping[int, str], title: str, aspect: float = 1.0
) -> Figure:
    """One slice: the image, then the image under each of the masks; see `mosaic`.

    Args:
        image: (rows, columns), any unit.
        masks: Label masks of that shape by what they are, e.g. `{"reference": ..., "prediction": ...}`.
        labels: The classes' names by value; 0, the background, is left clear.
        title: What stands above.
        aspect: Height of a pixel over its width, in mm.
    """
    panels = [Panel(image, "scan"), *(Panel(image, name, mask) for name, mask in masks.items())]
    return mosaic([panels], labels, title, [aspect])


def mosaic(
    rows: Sequence[Sequence[Panel]], labels: Mapping[int, str], title: str, aspects: Sequence[float] | None = None
) -> Figure:
    """Images side by side, row by row, each shown between its 1st and 99th percentile.

    Args:
        rows: The panels of each row; all rows have as many.
        labels: The classes' names by value; 0, the background, is left clear.
        title: What stands above.
        aspects: For each row the height of a pixel over its width, in mm.

    Returns:
        A figure to be saved with `figure.savefig(path)`.
    """
    aspects = aspects or [1.0] * len(rows)
    columns = len(rows[0])
    sizes = [row[0].image.shape for row in rows]
    heights = [
        3.2 * min(max(size[0] * aspect / size[1], 0.5), 2.0) for size, aspect in zip(sizes, aspects, strict=True)
    ]
    figure = Figure(figsize=(3.2 * columns, sum(heights) + 0.3 * len(rows) + 0.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for number, panel in enumerate(panel for row in rows for panel in row):
        axes, aspect = figure.add_subplot(len(rows), columns, number + 1), aspects[number // columns]
        low, high = np.percentile(panel.image, [1, 99])
        axes.imshow(
            panel.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect, interpolation="nearest"
        )
        if panel.mask is not None:
            axes.imshow(_coloured(panel.mask, len(labels)), aspect=aspect, interpolation="nearest")
        axes.set_title(plain_text(panel.title), fontsize=10)
        axes.set_axis_off()
    classes = [(COLOURS[(value - 1) % len(COLOURS)], name) for value, name in foreground(labels)]
    handles = [Patch(color=colour, label=plain_text(textwrap.shorten(name, 24))) for colour, name in classes]
    abreast = max(1, min(len(handles), round(1.3 * columns)))
    figure.legend(handles=handles, loc="outside lower center", ncols=abreast, frameon=False, fontsize=9)
    figure.suptitle(plain_text("\n".join(textwrap.wrap(title, 28 * columns))), fontsize=11)
    return figure


def strip(image: np.ndarray, masks: Sequence[np.ndarray], aspect: float = 1.0, height: int = 256) -> np.ndarray:
    """One slice as pixels, without a word: the image, then the image under each of the masks, side by side.

    Args:
        image: (rows, columns), any unit; shown between its 1st and 99th percentile.
        masks: Label masks of that shape.
        aspect: Height of a pixel over its width, in mm.
        height: Of the strip, in pixels.

    Returns:
        (height, width, 3) uint8, red, green, blue.
    """
    low, high = np.percentile(image, [1, 99])
    grey = np.clip(255 * (image - low) / max(high - low, 1e-6), 0, 255).astype(np.float32)
    scan = np.repeat(grey[..., None], 3, axis=2)
    panels = [scan]
    for mask in masks:
        colour = _coloured(mask, int(mask.max(initial=0)) + 1)
        panels.append(scan * (1 - colour[..., 3:]) + 255 * colour[..., :3] * colour[..., 3:])
    width = max(1, round(height * image.shape[1] / (image.shape[0] * aspect)))
    return np.hstack(
        [cv2.resize(panel.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) for panel in panels]
    )


def plain_text(text: str) -> str:
    """Text as it is: matplotlib takes what stands between two $ for a formula."""
    return text.replace("$", r"\$")


def upright(slice_xy: np.ndarray) -> np.ndarray:
    """A slice (first axis, second axis) of a canonical volume as people look at it: second axis up, first to the left.

    For an axial slice that is the radiologist's view: the front on top, the patient's left on the right.
    """
    return np.flipud(np.fliplr(slice_xy.T)) if slice_xy.ndim == 2 else slice_xy


def blend(image: np.ndarray, mask: np.ndarray | None, opacity: float = 0.45) -> np.ndarray:
    """An image under a mask in the classes' colours, for a screen.

    Args:
        image: (rows, columns) uint8.
        mask: (rows, columns) labels, or None.
        opacity: Of the mask, 0 to 1.

    Returns:
        (rows, columns, 3) uint8, red, green, blue.
    """
    shown = np.repeat(image[..., np.newaxis], 3, axis=2)
    if mask is None or not mask.any():
        return shown
    table = np.array([[0, 0, 0], *(rgb(value) for value in range(1, int(mask.max()) + 1))])
    inside = mask > 0
    shown[inside] = np.rint((1 - opacity) * shown[inside] + opacity * table[mask[inside]])
    return shown


def rgb(value: int) -> tuple[int, int, int]:
    """The colour of a class, red, green, blue, 0 to 255."""
    colour = COLOURS[(value - 1) % len(COLOURS)].lstrip("#")
    return int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:], 16)


def _coloured(mask: np.ndarray, num_classes: int) -> np.ndarray:
    table = np.zeros((max(num_classes, int(mask.max(initial=0)) + 1), 4))
    for value in range(1, len(table)):
        table[value] = [*(part / 255 for part in rgb(value)), 0.55]
    return table[mask]
