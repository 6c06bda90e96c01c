"""What every number of SegEval is: its formula, its classes, its aggregation, its unit, its rule for empty masks.

A number's name is `<score>[_pooled|_slice][/<class>]`: `dice/edema`, `mean_iou_pooled`. The same names are used in
tables, in JSON, in CSV files and, behind `val/` or `test/`, in MLflow. `definition` spells a name out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

EMPTY = (
    "A class in neither mask has no score: it is left out of means, whose n says of how many patients they are. Of a "
    "class in one mask alone Dice, IoU, precision, F2 and surface Dice are 0, and distances infinite: counted as "
    "missed (be it missed or invented), and never left out of a median. The sensitivity to a class that the reference "
    "lacks is unknown, and so is kappa where one class fills both masks. Volumes and counts are always known."
)
"""The one rule for empty masks, in words."""

SYMBOLS = (
    "n_ij: voxels of class i predicted as j; t_i: voxels of class i in the reference; p_i: voxels predicted as i; n: "
    "all voxels. A surface is the voxels of a mask with a face on its outside; distances go from centre to centre."
)
"""What the definitions' letters and words mean."""

FOREGROUND = "mean over the classes other than background that are in either mask"
ALL = "over all classes, the background among them"


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        title: What people call it.
        text: What it is; n_ij are the voxels of class i predicted as j, t_i those of class i in the reference, p_i
            those predicted as i, n all.
        unit: Empty for a ratio.
        per_class: It is also given for each class other than the background, and overall as the mean of those; else it
            has only one value for all classes.
        statistic: What is reported of many patients.
    """

    title: str
    text: str
    unit: str = ""
    per_class: bool = True
    statistic: Literal["mean", "median"] = "mean"


SCORES: dict[str, Score] = {
    "dice": Score("Dice", "2 n_ii / (t_i + p_i)"),
    "iou": Score("IoU", "n_ii / (t_i + p_i - n_ii)"),
    "sensitivity": Score("Sensitivity", "n_ii / t_i, the accuracy of a class"),
    "specificity": Score("Specificity", "the part of the voxels of other classes not predicted as it"),
    "precision": Score("Precision", "n_ii / p_i"),
    "f2": Score("F2", "5 n_ii / (4 t_i + p_i), which weighs what was missed more than Dice does"),
    "mean_dice": Score("Mean Dice", "mean of 2 n_ii / (t_i + p_i)", per_class=False),
    "pixel_accuracy": Score("Pixel accuracy", "sum_i n_ii / n", per_class=False),
    "mean_accuracy": Score("Mean accuracy", "mean of n_ii / t_i where the reference has the class", per_class=False),
    "mean_iou": Score("Mean IoU", "mean of n_ii / (t_i + p_i - n_ii)", per_class=False),
    "frequency_weighted_iou": Score("Frequency-weighted IoU", "sum_i t_i IoU_i / n", per_class=False),
    "kappa": Score("Cohen's kappa", "(o - e) / (1 - e), o = pixel accuracy, e = sum_i t_i p_i / n^2", per_class=False),
    "surface_dice": Score("Surface Dice", "the part of both surfaces within {tolerance:g} mm of the other"),
    "hausdorff_mm": Score("Hausdorff", "the largest distance from one surface to the other", "mm", statistic="median"),
    "hd95_mm": Score(
        "HD95",
        "the larger of both directions' 95th percentiles of the distance from one surface to the other",
        "mm",
        statistic="median",
    ),
    "assd_mm": Score(
        "ASSD",
        "the mean distance from the voxels of both surfaces to the other surface",
        "mm",
        statistic="median",
    ),
    "reference_ml": Score("Volume, reference", "the volume in the reference", "ml"),
    "volume_ml": Score("Volume, prediction", "the volume in the prediction", "ml"),
    "volume_error_ml": Score("Volume error", "volume in the prediction less that in the reference", "ml"),
    "lesions": Score("Lesions", "connected components of the reference (26 neighbours)", "a scan"),
    "lesion_sensitivity": Score(
        "Lesion sensitivity",
        "the part of the reference's lesions matched by a component of IoU >= 0.1, one to one, best first",
    ),
    "false_lesions": Score(
        "False lesions",
        "components of the prediction matched to none of the reference's",
        "a scan",
    ),
}
"""Every score by its name."""

AGGREGATIONS = {
    "": "of each whole volume; a patient's scans are averaged, then the patients",
    "_pooled": "of the voxels of all scans put together",
    "_slice": "of each {plane} slice; mean over all slices of all scans that have it",
}
"""How many scans become one number, by the ending of a name."""


def split(name: str) -> tuple[str, str, str]:
    """A number's name as (score, aggregation's ending, class), the class empty if it is none.

    Raises:
        KeyError: It is no name of SegEval's.
    """
    whole, _, of = name.partition("/")
    for ending in ("_pooled", "_slice", ""):
        if whole.endswith(ending) and whole.removesuffix(ending) in SCORES:
            return whole.removesuffix(ending), ending, of
    raise KeyError(name)


def definitions(names: Iterable[str], tolerance_mm: float = 2.0, plane: str = "axial") -> dict[str, str]:
    """What numbers are by their names, and what holds for all of them: `symbols` and `empty_masks`."""
    general = {"symbols": SYMBOLS, "empty_masks": EMPTY}
    return general | {name: definition(name, tolerance_mm, plane) for name in names}


def definition(name: str, tolerance_mm: float = 2.0, plane: str = "axial") -> str:
    """What a number is, in one sentence; see SYMBOLS and EMPTY for what holds for all.

    Args:
        name: Such as `dice/edema` or `mean_iou_pooled`.
        tolerance_mm: Of the surface Dice.
        plane: Of the slices.

    Raises:
        KeyError: It is no name of SegEval's.
    """
    name, ending, of = split(name)
    score = SCORES[name]
    over = f"of {of}" if of else (FOREGROUND if score.per_class else ALL)
    unit = f", in {score.unit}" if score.unit else ""
    spread = f" ({score.statistic} over patients)" if not ending and score.statistic != "mean" else ""
    text = score.text.format(tolerance=tolerance_mm)
    return f"{score.title}: {text}{unit}; {over}; {AGGREGATIONS[ending].format(plane=plane)}{spread}"
