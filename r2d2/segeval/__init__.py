"""SegEval, the evaluation library: masks to a confusion matrix, a confusion matrix to scores. It stands alone."""

from r2d2.segeval.confusion import confusion_matrices, confusion_matrix
from r2d2.segeval.definitions import definition, definitions
from r2d2.segeval.lesions import Lesions, by_size, match_lesions
from r2d2.segeval.metrics import Scores, scores
from r2d2.segeval.statistics import Comparison, Estimate, compare, estimate
from r2d2.segeval.summary import TOLERANCE_MM, CaseScores, Tally, foreground, plain, score_case
from r2d2.segeval.surface import SurfaceDistances, surface_distances

__all__ = [
    "TOLERANCE_MM",
    "CaseScores",
    "Comparison",
    "Estimate",
    "Lesions",
    "Scores",
    "SurfaceDistances",
    "Tally",
    "by_size",
    "compare",
    "confusion_matrices",
    "confusion_matrix",
    "definition",
    "definitions",
    "estimate",
    "foreground",
    "match_lesions",
    "plain",
    "score_case",
    "scores",
    "surface_distances",
]
