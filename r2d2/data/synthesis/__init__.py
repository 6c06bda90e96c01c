"""Virtual patients: whole datasets, scans and labels, that can be made anywhere and given to anyone."""

from r2d2.data.synthesis.dataset import KINDS, is_made_so, patient, synthesize

__all__ = ["KINDS", "is_made_so", "patient", "synthesize"]
