"""From the confusion matrices of many patients to the numbers and the table that a run reports."""

from collections.abc import Mapping, Sequence

import numpy as np

from r2d2.segeval.metrics import scores

OVERALL = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")


def patient_rows(
    confusions: np.ndarray, patients: Sequence[str], labels: Mapping[int, str]
) -> list[dict[str, str | float | None]]:
    """A row a patient, of its whole volume.

    Args:
        confusions: (patients, C, C) int64, rows = reference.
        patients: Their names.
        labels: The classes' names by value; 0 is the background.

    Returns:
        Dictionaries of `patient`, `dice` (mean over the foreground classes that are there), `dice/<class>` and
        `iou/<class>` of the foreground classes, and the paper's `pixel_accuracy`, `mean_accuracy`, `mean_iou`,
        `frequency_weighted_iou` over all classes. None stands for a class that is in neither mask.
    """
    rows = []
    for patient, confusion in zip(patients, confusions, strict=True):
        score = scores(confusion)
        row: dict[str, str | float | None] = {"patient": patient, "dice": _number(score.foreground_dice)}
        for value, name in sorted(labels.items()):
            if value > 0:
                row[f"dice/{name}"] = _number(score.dice[value])
                row[f"iou/{name}"] = _number(score.iou[value])
        rows.append(row | {name: _number(getattr(score, name)) for name in OVERALL})
    return rows


def means(rows: Sequence[Mapping[str, str | float | None]]) -> dict[str, float]:
    """The mean of every column of `patient_rows` over the patients that have it; a column nobody has is absent."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, float):
                columns.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in columns.items()}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
