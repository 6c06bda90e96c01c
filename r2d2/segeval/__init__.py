"""SegEval, the evaluation library: masks to a confusion matrix, a confusion matrix to scores. It stands alone."""

from r2d2.segeval.confusion import confusion_matrix
from r2d2.segeval.metrics import Scores, scores

__all__ = ["Scores", "confusion_matrix", "scores"]
