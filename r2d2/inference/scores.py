"""From the confusion matrices of predicted slices to the scores of scans and patients."""

from collections.abc import Sequence

import numpy as np

from r2d2.data.prepare import Prepared, PreparedCase
from r2d2.segeval import CaseScores, Tally


def tallied(prepared: Prepared, cases: Sequence[PreparedCase], slices: np.ndarray) -> Tally:
    """Return the scores of cases.

    Args:
        prepared: Their data.
        cases: In the order of their slices.
        slices: (slices, classes, classes) int64, from `Predictor.confusions`.
    """
    tally, ends = Tally(prepared.labels), np.cumsum([case.slices for case in cases])[:-1]
    for case, of_case in zip(cases, np.split(slices, ends) if cases else (), strict=True):
        tally.add(CaseScores(case.name, case.patient, of_case, float(np.prod(case.spacing_mm)) / 1000))
    return tally
