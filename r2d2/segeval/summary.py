"""From the masks of many scans to the numbers that a run or a report gives; see `definitions` for their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from r2d2.errors import InputError
from r2d2.segeval.confusion import confusion_matrices
from r2d2.segeval.definitions import SCORES, split
from r2d2.segeval.lesions import Lesions, SizeClass, by_size, match_lesions
from r2d2.segeval.metrics import Scores, scores
from r2d2.segeval.statistics import Estimate, estimate
from r2d2.segeval.surface import bounding_box, surface_distances

OVERALL = {
    "dice": "foreground_dice",
    "iou": "foreground_iou",
    **{name: name for name in ("mean_dice", "pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")},
    "kappa": "kappa",
}
"""The overall scores of a confusion matrix by their names, and what `Scores` calls them."""
PER_CLASS = ("dice", "iou", "sensitivity", "specificity", "precision")
SPREAD = ("dice", "iou")
"""The scores of each class that are also given pooled and of slices."""
TOLERANCE_MM = 2.0


@dataclass(frozen=True, eq=False)
class CaseScores:
    """What one scan contributes.

    Attributes:
        case: Its name.
        patient: Whose it is.
        slices: (S, C, C) int64, the confusion matrix of each slice, rows = reference.
        voxel_ml: The volume of a voxel.
        more: Numbers beyond those of the confusion matrix: distances, lesions.
        lesions: Each class' lesions.
    """

    case: str
    patient: str
    slices: np.ndarray
    voxel_ml: float
    more: Mapping[str, float] = field(default_factory=dict)
    lesions: Mapping[str, Lesions] = field(default_factory=dict)


def score_case(
    case: str,
    patient: str,
    reference: np.ndarray,
    prediction: np.ndarray,
    labels: Mapping[int, str],
    spacing_mm: Sequence[float],
    axis: int = 2,
    tolerance_mm: float = TOLERANCE_MM,
) -> CaseScores:
    """Compare two masks of one scan in every way there is.

    Args:
        case: The scan's name.
        patient: Whose it is.
        reference: (X, Y, Z), whole numbers.
        prediction: The same.
        labels: The classes' names by value, the background (0) among them.
        spacing_mm: The voxels' size along each axis.
        axis: Across which the slices are.
        tolerance_mm: Of the surface Dice.

    Raises:
        InputError: Shapes that differ, no voxels, labels outside the classes or not whole numbers, a wrong spacing.
    """
    matrices = confusion_matrices(reference, prediction, max(labels) + 1, axis)
    used = np.flatnonzero(matrices.sum(axis=(0, 1)) + matrices.sum(axis=(0, 2)))
    if unknown := sorted({*used.tolist()} - labels.keys()):
        raise InputError(
            f"label {unknown[0]} is none of the classes {', '.join(str(value) for value in sorted(labels))}"
        )
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    box = bounding_box(reference > 0, prediction > 0) or (slice(0, 1),) * reference.ndim
    there = [np.ascontiguousarray(mask[box]) for mask in (reference, prediction)]
    more: dict[str, float] = {}
    lesions: dict[str, Lesions] = {}
    for value, name in foreground(labels):
        left, right = (mask == value for mask in there)
        surfaces = surface_distances(left, right, spacing_mm)
        lesions[name] = match_lesions(left, right)
        count, detected = lesions[name].detected.size, np.count_nonzero(lesions[name].detected)
        of_class = {
            "hausdorff_mm": surfaces.hausdorff(),
            "hd95_mm": surfaces.hausdorff(95),
            "assd_mm": surfaces.average(),
            "surface_dice": surfaces.dice(tolerance_mm),
            "lesions": float(count),
            "lesion_sensitivity": detected / count if count else float("nan"),
            "false_lesions": float(lesions[name].false_voxels.size),
        }
        more |= {f"{score}/{name}": number for score, number in of_class.items()}
    for score in ("hausdorff_mm", "hd95_mm", "assd_mm", "surface_dice"):
        known = [more[f"{score}/{name}"] for _, name in foreground(labels)]
        known = [number for number in known if not np.isnan(number)]
        more[score] = float(np.mean(known)) if known else float("nan")
    return CaseScores(case, patient, matrices, voxel_ml, more, lesions)


class Tally:
    """The scores of a dataset, scan by scan: what it keeps of a scan is a row of numbers.

    Attributes:
        labels: The classes' names by value; 0 is the background.
        rows: A dictionary a scan: `case`, `patient` and its numbers by their names, NaN where there is none.
        pooled: (C, C) int64, the confusion matrix of all voxels.
    """

    def __init__(self, labels: Mapping[int, str]) -> None:
        self.labels = dict(labels)
        self.rows: list[dict] = []
        self.pooled = np.zeros((max(labels) + 1, max(labels) + 1), np.int64)
        self._slices: dict[str, list[float]] = {}
        self._lesions: list[tuple[float, Mapping[str, Lesions]]] = []

    def add(self, scan: CaseScores) -> None:
        """Add a scan."""
        confusion = scan.slices.sum(axis=0)
        self.rows.append(
            {"case": scan.case, "patient": scan.patient} | self._of_volume(confusion, scan.voxel_ml) | dict(scan.more)
        )
        self.pooled += confusion
        for name, values in self._named(scores(scan.slices), "_slice").items():
            known = values[~np.isnan(values)]
            total = self._slices.setdefault(name, [0.0, 0.0])
            total[0], total[1] = total[0] + float(known.sum()), total[1] + known.size
        if scan.lesions:
            self._lesions.append((scan.voxel_ml, scan.lesions))

    def means(self) -> dict[str, float]:
        """Every number's mean over the patients that have it, and the pooled and the slices' scores.

        A patient with several scans counts once, with their mean. What nobody has is absent, and so are distances:
        one miss makes their mean infinite, so that `estimates` gives their median.
        """
        found = {
            name: float(np.mean(values[~np.isnan(values)]))
            for name, values in self._of_patients().items()
            if SCORES[split(name)[0]].statistic == "mean"
        }
        return found | self.spread()

    def estimates(self) -> dict[str, Estimate]:
        """Every number of whole volumes with its interval over the patients; takes seconds."""
        return {
            name: estimate(values, SCORES[split(name)[0]].statistic) for name, values in self._of_patients().items()
        }

    def spread(self) -> dict[str, float]:
        """The pooled and the slices' scores; what nobody has is absent."""
        pooled = {name: float(value[0]) for name, value in self._named(scores(self.pooled), "_pooled").items()}
        slices = {name: total / n for name, (total, n) in self._slices.items() if n}
        return {name: value for name, value in pooled.items() if not np.isnan(value)} | slices

    def patients(self, name: str) -> dict[str, float]:
        """One number of every patient, NaN where there is none: what `statistics.compare` takes."""
        of: dict[str, list[float]] = {}
        for row in self.rows:
            of.setdefault(row["patient"], []).append(row.get(name, np.nan))
        return {patient: _mean_known(values) for patient, values in of.items()}

    def lesions(self) -> dict[str, list[SizeClass]]:
        """Each class' lesions by their size, where scans were looked at for lesions."""
        names = [name for _, name in foreground(self.labels)] if self._lesions else []
        voxels = [ml for ml, _ in self._lesions]
        return {name: by_size([scan[name] for _, scan in self._lesions], voxels) for name in names}

    def _of_volume(self, confusion: np.ndarray, voxel_ml: float) -> dict[str, float]:
        found = scores(confusion)
        row = {name: float(getattr(found, of)) for name, of in OVERALL.items()}
        f2 = found.f_beta(2)
        for value, name in foreground(self.labels):
            row |= {f"{score}/{name}": float(getattr(found, score)[value]) for score in PER_CLASS}
            reference, predicted = (float(confusion.sum(axis)[value]) * voxel_ml for axis in (1, 0))
            row |= {
                f"f2/{name}": float(f2[value]),
                f"reference_ml/{name}": reference,
                f"volume_ml/{name}": predicted,
                f"volume_error_ml/{name}": predicted - reference,
            }
        return row

    def _named(self, found: Scores, ending: str) -> dict[str, np.ndarray]:
        named = {f"{name}{ending}": np.atleast_1d(getattr(found, of)) for name, of in OVERALL.items()}
        for value, name in foreground(self.labels):
            named |= {f"{score}{ending}/{name}": np.atleast_1d(getattr(found, score)[..., value]) for score in SPREAD}
        return named

    def _of_patients(self) -> dict[str, np.ndarray]:
        names = [name for name in (self.rows[0] if self.rows else {}) if name not in ("case", "patient")]
        found = {name: np.array([*self.patients(name).values()]) for name in names}
        return {name: values for name, values in found.items() if not np.isnan(values).all()}


def plain(value: Any) -> Any:
    """For JSON, which knows neither NaN nor infinity: None where there is no number, "inf" for what was missed."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else "inf"
    return value


def foreground(labels: Mapping[int, str]) -> list[tuple[int, str]]:
    """The classes but for the background (0), each as its value in masks and its name, in the order of the values."""
    return [(value, name) for value, name in sorted(labels.items()) if value > 0]


def _mean_known(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
