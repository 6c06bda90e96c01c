"""How trials are stopped: Ray's successive halving as a sweep uses it."""

from types import SimpleNamespace

import pytest
import yaml

from r2d2 import config
from r2d2.cluster.sweep import _Asha, _pbt

BASE = {"name": "tiny", "data": {"path": "/scans"}, "training": {"epochs": 9}}


def sweep(**changes):
    space = {"training.virtual_workers": {"choice": [1, 4]}, "training.learning_rate": {"log_uniform": [0.001, 0.1]}}
    values = {"name": "s", "experiment": BASE, "space": space, "search": "random", "trials": 8}
    return config.parse_sweep(yaml.safe_dump(values | changes))


FIRST = {"asha": {"min_epochs": 1}}


def asha(known=None, settings=None, workers=lambda number: 1):
    desk = SimpleNamespace(
        known=lambda: known or {}, values=lambda number: {"training.virtual_workers": workers(number)}
    )
    return _Asha(settings or sweep(**FIRST), desk)


def decide(halving, number, epoch, dice):
    return halving.on_trial_result(None, number, {"epoch": epoch, "val/dice": dice})


def test_only_the_best_third_goes_on_after_1_and_3_epochs_and_nobody_is_stopped_at_the_end():
    halving = asha()
    assert decide(halving, 0, 1, 0.5) == "CONTINUE"  # there is nobody to compare it with
    assert decide(halving, 1, 1, 0.4) == "STOP"
    assert decide(halving, 2, 1, 0.6) == "CONTINUE"
    assert decide(halving, 2, 2, 0.1) == "CONTINUE"  # between the rungs
    assert decide(halving, 2, 3, 0.7) == "CONTINUE"
    assert decide(halving, 0, 3, 0.65) == "STOP"
    assert decide(halving, 2, 9, 0.9) == "CONTINUE"
    assert decide(halving, 3, 9, 0.0) == "CONTINUE"  # it is done anyway


def test_an_epoch_without_a_score_decides_nothing():
    assert asha().on_trial_result(None, 0, {"epoch": 1}) == "CONTINUE"


def test_a_sweep_that_goes_on_decides_as_if_it_had_never_stopped():
    whole = asha()
    before = {0: {1: 0.5, 2: 0.5, 3: 0.8}, 1: {1: 0.9}}
    for number, scores in before.items():
        for epoch, dice in scores.items():
            decide(whole, number, epoch, dice)
    resumed = asha(known=before)
    for number, epoch, dice in [(1, 2, 0.9), (1, 3, 0.7), (2, 1, 0.6), (3, 1, 0.95), (3, 3, 0.85)]:
        assert decide(resumed, number, epoch, dice) == decide(whole, number, epoch, dice)


def test_a_trial_that_comes_again_is_judged_once_at_each_rung():
    """Its workers were lost after the first rung; the epoch is trained and told anew."""
    halving = asha()
    for number, dice in enumerate([0.5, 0.6, 0.7]):
        decide(halving, number, 1, dice)
    assert decide(halving, 2, 1, 0.1) == "CONTINUE"


def test_each_number_of_workers_is_judged_by_itself():
    settings = sweep(for_each="training.virtual_workers", **FIRST)
    halving = asha(settings=settings, workers=lambda number: 4 if number >= 2 else 1)
    assert decide(halving, 0, 1, 0.9) == "CONTINUE"
    assert decide(halving, 1, 1, 0.8) == "STOP"
    assert decide(halving, 2, 1, 0.1) == "CONTINUE"  # the first with four workers
    assert decide(halving, 3, 1, 0.2) == "CONTINUE"


def test_a_population_never_leaves_its_ranges():
    settings = sweep(
        search="pbt",
        space={"training.learning_rate": {"log_uniform": [0.001, 0.1]}, "training.momentum": {"choice": [0.8, 0.9]}},
    )
    explore = _pbt(settings)._custom_explore_fn
    for given, kept in [(0.12, 0.1), (0.0008, 0.001), (0.05, 0.05)]:
        loop = {"train_loop_config": {"values": {"training.learning_rate": given, "training.momentum": 0.8}}}
        assert explore(loop)["train_loop_config"]["values"]["training.learning_rate"] == pytest.approx(kept)
