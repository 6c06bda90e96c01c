"""From a trained model and a scan to a mask on the scan's own grid."""

from r2d2.inference.predict import Predictor
from r2d2.inference.saved import SavedModel, load, read_network
from r2d2.inference.scores import tallied
from r2d2.inference.segment import Segmenter

__all__ = ["Predictor", "SavedModel", "Segmenter", "load", "read_network", "tallied"]
