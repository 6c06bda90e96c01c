"""From the confusion matrices of many patients to the numbers and the table that a run reports."""

from collections.abc import Mapping, Sequence

import numpy as np

from r2d2.segeval.metrics import scores

OVERALL = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")


def case_rows(
    confusions: np.ndarray, cases: Sequence[tuple[str, str]], labels: Mapping[int, str]
) -> list[dict[str, str | float | None]]:
    """A row a case, of its whole volume.

    Args:
        confusions: (cases, C, C) int64, rows = reference.
        cases: Their names, and whose they are: (case, patient).
        labels: The classes' names by value; 0 is the background.

    Returns:
        Dictionaries of `case`, `patient`, `dice` (mean over the foreground classes that are there), `dice/<class>` and
        `iou/<class>` of the foreground classes, and the paper's `pixel_accuracy`, `mean_accuracy`, `mean_iou`,
        `frequency_weighted_iou` over all classes. None stands for a class that is in neither mask.
    """
    rows = []
    for (case, patient), confusion in zip(cases, confusions, strict=True):
        score = scores(confusion)
        row: dict[str, str | float | None] = {"case": case, "patient": patient}
        row["dice"] = _number(score.foreground_dice)
        for value, name in sorted(labels.items()):
            if value > 0:
                row[f"dice/{name}"] = _number(score.dice[value])
                row[f"iou/{name}"] = _number(score.iou[value])
        rows.append(row | {name: _number(getattr(score, name)) for name in OVERALL})
    return rows


def means(rows: Sequence[Mapping[str, str | float | None]]) -> dict[str, float]:
    """The mean of every column of `case_rows` over the patients that have it; a column nobody has is absent.

    A patient with several cases counts once, with the mean of them.
    """
    columns: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, float):
                columns.setdefault(key, {}).setdefault(str(row["patient"]), []).append(value)
    return {key: float(np.mean([np.mean(own) for own in of.values()])) for key, of in columns.items()}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
