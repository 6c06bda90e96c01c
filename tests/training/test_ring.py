"""Data parallelism is right: real Horovod ranks against one rank with the same global batch."""

import json
from pathlib import Path

import horovod.runner
import numpy as np
import pytest
import tensorflow as tf
import yaml
from helpers.ranks import learn

from r2d2 import config
from r2d2.data.cases import find_cases
from r2d2.data.prepare import prepare
from r2d2.training.ring import Half

GLOBAL_BATCH = 6
TOLERANCE = 5e-6
"""Largest difference of a weight that rounding in float32 explains; weights are of the order of 0.1."""

SETTINGS = {
    "cross_entropy-sgd": {"loss": "cross_entropy", "optimizer": "sgd", "ring": {"overlap": False}},
    "dice_cross_entropy-adam": {"optimizer": "adam", "model": {"depth": 2}},
    # Six logical workers with an image each, whose network drops units.
    "virtual-dropout": {"virtual_workers": GLOBAL_BATCH, "batch_size": 1, "model": {"dropout": 0.5}},
    # The images of a step are shared out unevenly.
    "virtual-uneven": {
        "virtual_workers": 4,
        "batch_size": 2,
        "optimizer": "adam",
        "model": {"normalization": "batch"},
    },
    "fp16": {"ring": {"compression": "fp16"}},
    # The paper's 18, of which four ranks have five or four each.
    "virtual-18": {"virtual_workers": 18, "batch_size": 1, "epochs": 4},
    "virtual-18-bfloat16": {"virtual_workers": 18, "batch_size": 1, "epochs": 4, "precision": "bfloat16"},
}
"""What is trained, each for an epoch."""
QUICK = tuple(SETTINGS)[:5]
NAMES = {1: QUICK, 2: QUICK, 3: ("virtual-dropout", "virtual-uneven")}
"""By number of ranks. Three send each gradient by itself."""


def _experiment(data: Path, workers: int, model: dict | None = None, **training: object) -> str:
    settings = {
        "batch_size": GLOBAL_BATCH // workers,
        "loss": "dice_cross_entropy",
        "optimizer": "sgd",
        # The same effective rate everywhere; large enough for a missing allreduce to show. Adam divides noise of a
        # gradient that is zero by itself: at larger rates that grows.
        "learning_rate": 0.002 if training.get("optimizer") == "adam" else 0.1,
        "scaling": "none",
        "precision": "float32",
        "epochs": 1,
    }
    return yaml.safe_dump(
        {
            "name": "ring",
            "data": {"path": str(data)},
            "preprocess": {"image_size": [24, 28], "slices": {"count": 6, "choice": "foreground"}},
            "model": {"filters": 4, "depth": 1} | (model or {}),
            "training": settings | training,
            "cluster": {"workers": workers},
        }
    )


def _run(ranks, prepared, data, names, **how):
    """What each of so many real ranks finds, by the names of the settings."""
    experiments = [_experiment(data, ranks, **SETTINGS[name]) for name in names]
    cases = [case.name for case in prepared.cases]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent), prepend=":")  # where the ranks find `learn`
        found = horovod.runner.run(learn, (prepared.folder, cases, experiments), how, num_proc=ranks, use_gloo=True)
    return [dict(zip(names, of_rank, strict=True)) for of_rank in found]


@pytest.fixture(scope="module")
def prepared(virtual_patients, tmp_path_factory):
    experiment = config.parse(_experiment(virtual_patients, 1))
    return prepare(find_cases(experiment.data), experiment.preprocess, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def results(prepared, virtual_patients):
    """By number of ranks: a list of what each rank found, by setting."""
    fusion_mb = {1: 64.0, 2: 64.0, 3: 0.0}
    return {ranks: _run(ranks, prepared, virtual_patients, NAMES[ranks], fusion_mb=fusion_mb[ranks]) for ranks in NAMES}


def test_gradients_in_float16_keep_three_digits_from_6e_8_to_64_and_vanish_below_3e_11_alone():
    gradients = tf.constant([6e-8, -3e-5, 1.0, 60.0], tf.float32)
    sent, kind = Half.compress(gradients)
    assert sent.dtype == tf.float16
    np.testing.assert_allclose(Half.decompress(sent, kind), gradients, rtol=5e-4)
    few = Half.decompress(*Half.compress(tf.constant([1e-9, 6e-11, 2e-11, 65.0])))
    assert few[0] > 0 and few[1] > 0 and few[2] == 0 and np.isinf(few[3])


@pytest.mark.parametrize(("ranks", "setting"), [(ranks, name) for ranks in (2, 3) for name in NAMES[ranks]])
def test_n_ranks_learn_what_one_rank_with_the_whole_batch_learns(results, ranks, setting):
    coarser = 400 if setting == "fp16" else 1  # 3 digits instead of 7
    one, many = results[1][0][setting], results[ranks][0][setting]
    assert one["steps"] == many["steps"] == (6 if setting == "virtual-uneven" else 8)
    difference = np.abs(one["weights"] - many["weights"]).max()
    assert difference <= coarser * TOLERANCE
    np.testing.assert_allclose(one["losses"], many["losses"], rtol=coarser * 1e-5)
    np.testing.assert_allclose(one["norms"], many["norms"], rtol=coarser * 1e-4)
    assert many["loss"] == pytest.approx(np.mean(one["losses"]), rel=coarser * 1e-5)


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_end_with_the_same_bits_and_were_told_the_same(results, ranks):
    for setting in NAMES[ranks]:
        first, *others = (result[setting] for result in results[ranks])
        for other in others:
            np.testing.assert_array_equal(first["weights"], other["weights"])
            assert (first["losses"], first["norms"]) == (other["losses"], other["norms"])
        assert first["codes"] == {sum(range(ranks))}


def test_without_the_allreduce_the_difference_is_a_thousand_times_the_tolerance(prepared, virtual_patients, results):
    names = QUICK[:2]
    broken = _run(2, prepared, virtual_patients, names, without_allreduce=True)
    for setting in names:
        difference = np.abs(broken[0][setting]["weights"] - results[1][0][setting]["weights"]).max()
        assert difference >= 1000 * TOLERANCE
        between_ranks = np.abs(broken[0][setting]["weights"] - broken[1][setting]["weights"]).max()
        assert between_ranks >= 1000 * TOLERANCE


@pytest.mark.long
def test_eighteen_logical_workers_on_four_ranks_learn_what_they_do_on_one(prepared, virtual_patients):
    names = ["virtual-18", "virtual-18-bfloat16"]
    one, many = (_run(ranks, prepared, virtual_patients, names)[0] for ranks in (1, 4))
    apart = [np.abs(one[name]["weights"] - many[name]["weights"]).max() for name in names]
    rounded = np.abs(one[names[0]]["weights"] - one[names[1]]["weights"]).max()
    # In bfloat16 it matters less who computes what than that it is bfloat16.
    assert apart[0] <= 2 * TOLERANCE and apart[1] <= rounded
    for name, rounding in zip(names, (1e-5, 1e-4), strict=True):
        assert one[name]["steps"] == many[name]["steps"] == 2
        np.testing.assert_allclose(one[name]["losses"], many[name]["losses"], rtol=rounding)


@pytest.mark.long
def test_three_deterministic_ranks_end_with_the_same_bits_each_time(prepared, virtual_patients, tmp_path):
    name, timeline = "dice_cross_entropy-adam", tmp_path / "timeline.json"
    first = _run(3, prepared, virtual_patients, [name], deterministic=True, timeline=timeline)[0][name]
    again = _run(3, prepared, virtual_patients, [name], deterministic=True)[0][name]
    np.testing.assert_array_equal(first["weights"], again["weights"])
    assert first["losses"] == again["losses"]
    names = {event.get("name") for event in json.loads(timeline.read_text())}
    assert {"NEGOTIATE_ALLREDUCE", "ALLREDUCE", "GLOO_ALLREDUCE"} <= names


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_confusion_matrices_of_all_ranks_sum_to_those_of_one(results, ranks):
    result = results[ranks][0][NAMES[ranks][0]]
    alone = result["confusions_of_one"]  # the same weights, all batches on one rank
    cases = alone.reshape(8, 48, 4, 4).sum(axis=1)  # which have as many slices each
    assert len({matrix.tobytes() for matrix in cases}) == 8, "no two cases are alike, so none can be exchanged"
    np.testing.assert_array_equal(result["confusions"], alone)
