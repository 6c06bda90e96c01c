"""An experiment file: what may stand in it, what it means, and one-line errors for what may not.

An experiment is YAML with the sections `name, data, preprocess, model, training, cluster, tracking, evaluation,
promotion, card`.
Every key has its default here; `load` reads a file, applies dotted overrides (`training.epochs=5`) and checks all.
"""

from r2d2.config.data import PATIENT, Data, Preprocess, Slices, Split
from r2d2.config.experiment import Card, Cluster, Experiment, Promotion
from r2d2.config.flat import differences, parameters
from r2d2.config.folders import home
from r2d2.config.form import Setting
from r2d2.config.networks import NETWORKS, DistFCN, DistUNet, Freeze, Model
from r2d2.config.reading import load, parse
from r2d2.config.scale import RULES, Child, Study, parse_study, study
from r2d2.config.section import Name
from r2d2.config.sweep import Asha, Dimension, Pbt, Sweep, load_sweep, parse_sweep, shown, with_values
from r2d2.config.training import Augmentation, Ring, Sentinel, Training

__all__ = [
    "NETWORKS",
    "PATIENT",
    "RULES",
    "Asha",
    "Augmentation",
    "Card",
    "Child",
    "Cluster",
    "Data",
    "Dimension",
    "DistFCN",
    "DistUNet",
    "Experiment",
    "Freeze",
    "Model",
    "Name",
    "Pbt",
    "Preprocess",
    "Promotion",
    "Ring",
    "Sentinel",
    "Setting",
    "Slices",
    "Split",
    "Study",
    "Sweep",
    "Training",
    "differences",
    "home",
    "load",
    "load_sweep",
    "parameters",
    "parse",
    "parse_study",
    "parse_sweep",
    "shown",
    "study",
    "with_values",
]
