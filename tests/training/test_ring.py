"""Data parallelism is right: real Horovod ranks against one rank with the same global batch."""

from pathlib import Path

import horovod.runner
import numpy as np
import pytest
import yaml
from helpers.ranks import learn

from r2d2 import config
from r2d2.data.cases import find_cases
from r2d2.data.prepare import prepare

GLOBAL_BATCH = 6
TOLERANCE = 5e-6
"""Largest difference of a weight that rounding in float32 explains; weights are of the order of 0.1."""

SETTINGS = [
    ("cross_entropy", "sgd"),
    ("dice_cross_entropy", "sgd"),
    ("cross_entropy", "adam"),
    ("dice_cross_entropy", "adam"),
]


def _experiment(data: Path, workers: int, loss: str, optimizer: str) -> str:
    return yaml.safe_dump(
        {
            "name": "ring",
            "data": {"path": str(data)},
            "preprocess": {"image_size": [24, 28], "slices": {"count": 6, "choice": "foreground"}},
            "model": {"filters": 4, "depth": 2},
            "training": {
                "batch_size": GLOBAL_BATCH // workers,
                "loss": loss,
                "optimizer": optimizer,
                # The same effective rate everywhere; large, so that a missing allreduce shows.
                "learning_rate": 0.1 if optimizer == "sgd" else 0.02,
                "scaling": "none",
                "precision": "float32",
                "epochs": 1,
            },
        }
    )


def _run(ranks, prepared, data, without_allreduce=False):
    """What each of so many real ranks finds."""
    experiments = [_experiment(data, ranks, *setting) for setting in SETTINGS]
    cases = [case.name for case in prepared.cases]
    arguments = (prepared.folder, cases, experiments, without_allreduce)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))  # where the ranks find `learn`
        return horovod.runner.run(learn, arguments, num_proc=ranks, use_gloo=True)


@pytest.fixture(scope="module")
def prepared(virtual_patients, tmp_path_factory):
    experiment = config.parse(_experiment(virtual_patients, 1, "cross_entropy", "sgd"))
    return prepare(find_cases(experiment.data), experiment.preprocess, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def results(prepared, virtual_patients):
    """By number of ranks: a list of what each rank found, a dictionary a setting."""
    return {ranks: _run(ranks, prepared, virtual_patients) for ranks in (1, 2, 3)}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("setting", range(len(SETTINGS)), ids=["-".join(setting) for setting in SETTINGS])
def test_n_ranks_learn_what_one_rank_with_the_whole_batch_learns(results, ranks, setting):
    one, many = results[1][0][setting], results[ranks][0][setting]
    assert one["steps"] == many["steps"] == 8
    difference = np.abs(one["weights"] - many["weights"]).max()
    assert difference <= TOLERANCE
    assert one["loss"] == pytest.approx(many["loss"], rel=1e-5)


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_end_with_the_same_bits(results, ranks):
    for setting in range(len(SETTINGS)):
        first, *others = (result[setting]["weights"] for result in results[ranks])
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_without_the_allreduce_the_difference_is_a_thousand_times_the_tolerance(prepared, virtual_patients, results):
    broken = _run(2, prepared, virtual_patients, without_allreduce=True)
    for setting in range(len(SETTINGS)):
        difference = np.abs(broken[0][setting]["weights"] - results[1][0][setting]["weights"]).max()
        assert difference >= 1000 * TOLERANCE
        between_ranks = np.abs(broken[0][setting]["weights"] - broken[1][setting]["weights"]).max()
        assert between_ranks >= 1000 * TOLERANCE


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_confusion_matrices_of_all_ranks_sum_to_those_of_one(results, ranks):
    for result in results[ranks]:
        alone = result[0]["confusions_of_one"]  # the same weights, all batches on one rank
        assert alone.shape == (8, 4, 4)
        assert len({matrix.tobytes() for matrix in alone}) == 8, "no two cases are alike, so none can be exchanged"
        np.testing.assert_array_equal(result[0]["confusions"], alone)


def test_every_rank_drops_units_of_its_own(results):
    seeds = [tuple(result[0]["dropout_seed"]) for result in results[3]]
    assert len(set(seeds)) == 3
