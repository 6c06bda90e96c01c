"""A sweep's trials on the disk: what is drawn, what is remembered, what the scores depend on."""

import warnings

import numpy as np
import pytest
import yaml

from r2d2 import config
from r2d2.cluster.search import Study

BASE = {"name": "tiny", "data": {"path": "/scans"}}
SPACE = {
    "training.optimizer": {"choice": ["adam", "sgd"]},
    "training.learning_rate": {"log_uniform": [1e-4, 1e-1]},
    "training.momentum": {"uniform": [0.8, 0.99], "when": {"training.optimizer": "sgd"}},
    "model.filters": {"integers": [4, 18], "step": 4},
}

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def sweep(**changes):
    values = {"name": "rates", "experiment": BASE, "space": SPACE, "search": "random", "trials": 12} | changes
    return config.parse_sweep(yaml.safe_dump(values))


def drawn(study):
    found = []
    while (trial := study.draw()) is not None:
        found.append(trial.values)
    return found


def test_values_lie_in_their_ranges_and_conditions_hold(tmp_path):
    values = drawn(Study(sweep(trials=40), tmp_path))
    assert len(values) == 40
    assert {one["model.filters"] for one in values} == {4, 8, 12, 16}
    rates = np.array([one["training.learning_rate"] for one in values])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-1
    assert 8 <= (rates < 10**-2.5).sum() <= 32  # half of them, by the logarithm
    for one in values:
        assert ("training.momentum" in one) == (one["training.optimizer"] == "sgd")
    assert sweep().trial(values[0]).training.learning_rate == values[0]["training.learning_rate"]


@pytest.mark.parametrize("search", ["random", "tpe", "grid"])
def test_a_sweep_that_is_taken_up_again_draws_what_it_would_have_drawn(tmp_path, search):
    space = SPACE
    if search == "grid":
        space = {"training.optimizer": {"choice": ["adam", "sgd"]}, "model.filters": {"integers": [4, 32], "step": 4}}
    settings = sweep(search=search, space=space)
    scores = np.random.default_rng(0).uniform(size=12)

    def go_on(study, until):
        for number in range(len(study.trials()), until):
            assert study.draw().number == number
            study.score(number, 3, scores[number])
            study.end(number, "finished", "all epochs done", 1.0)
        return [trial.values for trial in study.trials()]

    whole = go_on(Study(settings, tmp_path / "whole"), 12)
    go_on(Study(settings, tmp_path / "halves"), 5)
    again = Study(settings, tmp_path / "halves")
    assert go_on(again, 12) == whole
    assert again.draw() is None
    other = go_on(Study(settings.model_copy(update={"seed": 1}), tmp_path / "other"), 12)
    assert other != whole


def test_what_is_known_of_a_trial_is_there_again(tmp_path):
    study = Study(sweep(), tmp_path)
    values = [study.draw().values for _ in range(3)]
    study.note(0, run_id="abc")
    study.score(0, 1, 0.25)
    study.score(0, 3, 0.75)
    study.score(1, 1, 0.125)
    study.end(1, "stopped", "others were better after epoch 1", 12.5)
    first, second, third = Study(sweep(), tmp_path).trials()
    assert (first.outcome, first.run_id, first.scores, first.best, first.epochs) == (
        "running",
        "abc",
        {1: 0.25, 3: 0.75},
        0.75,
        3,
    )
    assert (second.outcome, second.best, second.seconds) == ("stopped", 0.125, 12.5)
    assert second.reason == "others were better after epoch 1"
    assert (third.best, third.epochs) == (None, 0)
    assert [first.values, second.values, third.values] == values


def test_a_grid_larger_than_the_number_of_trials_is_sampled_without_repetition(tmp_path):
    space = {"training.batch_size": {"integers": [1, 8]}, "training.optimizer": {"choice": ["adam", "sgd"]}}
    values = drawn(Study(sweep(search="grid", space=space, trials=5), tmp_path))
    assert len({tuple(one.values()) for one in values}) == 5
    everything = drawn(Study(sweep(search="grid", space=space, trials=None), tmp_path / "all"))
    assert len(everything) == 16 and all(one in everything for one in values)


def test_values_of_a_choice_keep_their_type(tmp_path):
    kinds = [1, 0.5, "adam", None, [1, 2], {"network": "dist-unet", "depth": 2}]
    space = {"model": {"choice": [{"network": "dist-unet", "depth": 2}, {"network": "dist-unet", "depth": 3}]}}
    assert drawn(Study(sweep(search="grid", space=space, trials=None), tmp_path)) == [
        {"model": one} for one in space["model"]["choice"]
    ]
    from r2d2.cluster.search import _label

    assert [yaml.safe_load(_label(kind)) for kind in kinds] == kinds


def test_tpe_comes_back_to_where_the_good_ones_were(tmp_path):
    """The best rate is 0.01; by chance a fifth of the trials lie within a factor of two of it."""
    space = {"training.learning_rate": {"log_uniform": [1e-4, 1e-1]}}
    study = Study(sweep(search="tpe", space=space, trials=40), tmp_path)
    for number in range(40):
        rate = study.draw().values["training.learning_rate"]
        study.score(number, 1, float(np.exp(-(np.log10(rate / 0.01) ** 2))))
        study.end(number, "finished", "all epochs done", 1.0)
    late = [trial.values["training.learning_rate"] for trial in study.trials()[20:]]
    assert sum(0.005 < rate < 0.02 for rate in late) >= 10


def test_importance_names_the_setting_that_matters(tmp_path):
    space = {"training.learning_rate": {"uniform": [0.1, 1.0]}, "training.momentum": {"uniform": [0.1, 0.9]}}
    study = Study(sweep(space=space, trials=30), tmp_path)
    for number in range(30):
        values = study.draw().values
        study.score(number, 1, values["training.learning_rate"])
        study.end(number, "stopped" if number % 2 else "finished", "", 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importance = study.importance()
    assert sum(importance.values()) == pytest.approx(1.0)
    assert importance["training.learning_rate"] > 0.9
    assert Study(sweep(space=space), tmp_path / "empty").importance() == {}


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_every_value_of_for_each_has_as_many_trials(tmp_path, search):
    space = SPACE | {"training.virtual_workers": {"choice": [1, 4, 18]}}
    values = drawn(Study(sweep(search=search, space=space, for_each="training.virtual_workers"), tmp_path))
    assert [one["training.virtual_workers"] for one in values] == [1, 4, 18] * 4
    assert len({one["training.learning_rate"] for one in values}) == 12


@pytest.mark.parametrize("moment", ["asked", "enqueued"])
def test_a_trial_that_was_drawn_in_part_when_its_sweep_was_killed_is_drawn_again(tmp_path, monkeypatch, moment):
    settings = sweep(search="grid", space={"training.batch_size": {"integers": [1, 4]}})
    whole = drawn(Study(settings, tmp_path / "whole"))
    study = Study(settings, tmp_path / "killed")
    study.draw()

    def kill(*_, **__):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(type(study._study), "ask", kill) if moment == "enqueued" else patch.setattr(
            "r2d2.cluster.search._drawn", kill
        )
        with pytest.raises(RuntimeError, match="killed"):
            study.draw()
    again = Study(settings, tmp_path / "killed")
    assert [trial.number for trial in again.trials()] == [0]
    assert drawn(again) == whole[1:]
    assert [trial.values for trial in again.trials()] == whole


def test_the_finish_is_remembered(tmp_path):
    Study(sweep(), tmp_path).finish(run_id="abc")
    assert Study(sweep(), tmp_path).finish(result={"model": "m/1"}) == {"run_id": "abc", "result": {"model": "m/1"}}
