"""The table, the best settings and the pictures of a sweep."""

import csv

import yaml
from matplotlib.image import imread

from r2d2 import config
from r2d2.cluster.search import Trial
from r2d2.engine import sweep_report

BASE = {"name": "tiny", "data": {"path": "/scans"}, "training": {"optimizer": "adam"}}


def sweep(**changes):
    space = {
        "training.virtual_workers": {"choice": [1, 18]},
        "training.optimizer": {"choice": ["sgd", "adam"]},
        "training.learning_rate": [
            {"log_uniform": [0.003, 0.1], "when": {"training.optimizer": "sgd"}},
            {"log_uniform": [0.0005, 0.01], "when": {"training.optimizer": "adam"}},
        ],
        "training.momentum": {"uniform": [0.8, 0.99], "when": {"training.optimizer": "sgd"}},
        "model.filters": {"integers": [4, 16], "step": 4},
    }
    values = {"name": "s", "experiment": BASE, "space": space, "search": "random", "trials": 8}
    return config.parse_sweep(yaml.safe_dump(values | changes))


def trial(number, workers, dice, outcome="finished", **values):
    values = {"training.virtual_workers": workers, "model.filters": 4 * (number % 4 + 1)} | values
    scores = {} if dice is None else {1: dice / 2, 2: dice}
    return Trial(number, values, outcome, scores, f"run{number}", "all epochs done", 12.0)


SGD = {"training.optimizer": "sgd", "training.learning_rate": 0.05, "training.momentum": 0.9}
ADAM = {"training.optimizer": "adam", "training.learning_rate": 0.001}
TRIALS = [
    trial(0, 1, 0.8, **SGD),
    trial(1, 18, 0.5, "stopped", **ADAM),
    trial(2, 1, 0.9, "diverged", **SGD),
    trial(3, 18, 0.7, **(ADAM | {"training.learning_rate": 0.004})),
    trial(4, 18, None, "failed", **ADAM),
]


def test_the_best_settings_are_an_experiment_file_for_each_number_of_workers(tmp_path):
    settings = sweep(for_each="training.virtual_workers")
    files = sweep_report.write(
        tmp_path / "report", settings, TRIALS, {"training.learning_rate": 0.75, "model.filters": 0.25}
    )
    assert [path.name for path in files] == [
        "best-1.yaml",
        "best-18.yaml",
        "importance.csv",
        "importance.png",
        "parallel_coordinates.png",
        "trials.csv",
    ]
    one, many = config.load(files[0]), config.load(files[1])
    assert (one.training.optimizer, one.training.learning_rate, one.logical_workers) == ("sgd", 0.05, 1)
    assert (many.training.optimizer, many.training.learning_rate, many.logical_workers) == ("adam", 0.004, 18)
    assert "validation Dice 0.7000" in files[1].read_text()


def test_a_trial_that_diverged_is_not_the_best_and_a_later_report_replaces_the_first(tmp_path):
    sweep_report.write(tmp_path / "report", sweep(), TRIALS[:1], {})
    files = sweep_report.write(tmp_path / "report", sweep(), TRIALS, {})
    assert [path.name for path in files] == ["best.yaml", "parallel_coordinates.png", "trials.csv"]
    assert "Trial 0 " in files[0].read_text()


def test_the_table_has_a_row_a_trial_and_an_empty_cell_for_what_a_trial_lacks(tmp_path):
    (*_, table) = sweep_report.write(tmp_path / "report", sweep(), TRIALS, {})
    with table.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["training.momentum"] for row in rows] == ["0.9", "", "0.9", "", ""]
    assert [row["val/dice"] for row in rows] == ["0.800000", "0.500000", "0.900000", "0.700000", ""]
    assert [row["outcome"] for row in rows] == ["finished", "stopped", "diverged", "finished", "failed"]


def test_the_pictures_are_drawn_also_of_one_trial(tmp_path):
    for trials in (TRIALS, TRIALS[:1]):
        files = sweep_report.write(tmp_path / "report", sweep(), trials, {})
        picture = imread(files[1])
        assert picture.shape[0] > 300 and picture.shape[1] > 600 and picture.std() > 0.05
