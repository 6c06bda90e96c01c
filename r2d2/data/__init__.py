"""Datasets: the cases of a folder, checked, split by patient and prepared for training."""
