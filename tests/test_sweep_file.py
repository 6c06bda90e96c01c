"""Sweep files: what may stand in them, and one line for what may not."""

import pytest
import yaml

from r2d2 import config
from r2d2.errors import InputError

BASE = {"name": "tiny", "data": {"path": "/scans"}, "training": {"epochs": 6, "optimizer": "adam"}}
SPACE = {
    "training.optimizer": {"choice": ["adam", "sgd"]},
    "training.learning_rate": {"log_uniform": [1e-4, 1e-1]},
    "training.momentum": {"uniform": [0.8, 0.99], "when": {"training.optimizer": "sgd"}},
    "model.filters": {"integers": [4, 17], "step": 4},
}


def sweep(*overrides, **changes):
    values = {"name": "rates", "experiment": BASE, "space": SPACE, "search": "random", "trials": 6} | changes
    return config.parse_sweep(yaml.safe_dump(values), overrides, source="rates.yaml")


def refusal(*overrides, **changes):
    """The one line that a sweep is refused with."""
    with pytest.raises(InputError) as caught:
        sweep(*overrides, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_experiment_lies_beside_the_sweep_and_its_settings_are_applied(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    file = tmp_path / "rates.yaml"
    values = {
        "name": "rates",
        "experiment": "base.yaml",
        "settings": {"training.epochs": 9},
        "space": SPACE,
        "trials": 2,
    }
    file.write_text(yaml.safe_dump(values))
    loaded = config.load_sweep(file, ["trials=3", "training.batch_size=2"])
    assert (loaded.trials, loaded.search, loaded.stopping, loaded.finish) == (3, "tpe", "asha", "continue")
    training = loaded.experiment.training
    assert (training.epochs, training.batch_size, training.optimizer) == (9, 2, "adam")


def test_a_setting_changed_from_the_command_line_changes_nothing_beside_it():
    one = sweep("settings.training.batch_size=3", settings={"training.epochs": 9, "training.batch_size": 2})
    assert (one.experiment.training.batch_size, one.experiment.training.epochs) == (3, 9)
    assert one.experiment.training.optimizer == "adam"


def test_a_recorded_sweep_is_read_back_equal():
    one = sweep(seed=3, finish="retrain")
    assert config.parse_sweep(one.to_yaml()) == one


def test_asha_judges_after_the_warm_up_unless_it_is_told_when():
    assert sweep("training.warmup_epochs=1.5").first_rung == 3
    assert sweep("training.warmup_epochs=0").first_rung == 1
    assert sweep().first_rung == 6  # a warm-up of five epochs, six in all
    assert sweep(asha={"min_epochs": 4}).first_rung == 4


def test_a_grid_is_every_combination_and_a_condition_leaves_its_setting_out():
    one = sweep(
        search="grid",
        trials=None,
        space={
            "training.optimizer": {"choice": ["adam", "sgd"]},
            "training.momentum": {"choice": [0.8, 0.9], "when": {"training.optimizer": "sgd"}},
            "model.filters": {"integers": [4, 9], "step": 4},
        },
    )
    assert {(v["training.optimizer"], v.get("training.momentum"), v["model.filters"]) for v in one.grid()} == {
        ("adam", None, 4),
        ("adam", None, 8),
        ("sgd", 0.8, 4),
        ("sgd", 0.8, 8),
        ("sgd", 0.9, 4),
        ("sgd", 0.9, 8),
    }
    assert one.number == 6 and sweep(search="grid", trials=4, space=one.model_dump()["space"]).number == 4


def test_a_trial_is_the_base_with_its_values_and_a_section_may_be_one():
    trial = sweep().trial({"training.learning_rate": 0.5, "model": {"network": "dist-fcn", "encoder": "vgg16"}})
    assert trial.training.learning_rate == 0.5 and trial.model.network == "dist-fcn"
    assert trial.training.optimizer == "adam" and trial.name == "tiny"


@pytest.mark.parametrize(
    "space, said",
    [
        ({"training.rate": {"choice": [1]}}, "space.training.rate: training.rate: unknown key; the nearest known"),
        (
            {"training.learning_rate": {"uniform": [0.1, 0.01]}},
            "uniform [0.1, 0.01] is empty: its low must be < its high",
        ),
        ({"training.learning_rate": {"log_uniform": [0, 1]}}, "log_uniform's low (0) must be > 0"),
        (
            {"training.learning_rate": {"uniform": [-1.0, 1.0]}},
            "training.learning_rate: input should be greater than 0",
        ),
        ({"training.learning_rate": {"choice": []}}, "space.training.learning_rate.0: choice [] is empty"),
        ({"training.learning_rate": {"uniform": [0.1]}}, "learning_rate.0.uniform: should be [low, high] (got [0.1])"),
        ({"training.learning_rate": {"integers": 4}}, "learning_rate.0.integers: should be [low, high] (got 4)"),
        ({"training.learning_rate": [0.1, 0.2]}, "learning_rate: should be a range, such as {uniform: [low, high]}"),
        ({"training.learning_rate": 0.1}, "or a list of them (got 0.1)"),
        ({"training.learning_rate": []}, "or a list of them (got [])"),
        ({"training.learning_rate": {"choice": [1], "uniform": [0, 1]}}, "should have one of choice, uniform"),
        ({"training.optimizer": {"choice": ["adam", "adma"]}}, "'lars' or 'lamb' (got 'adma')"),
        ({"data.split.seed": {"choice": [0, 1]}}, "data is the same for all trials of a sweep"),
        ({"cluster.workers": {"choice": [1, 2]}}, "cluster is the same for all trials of a sweep"),
        ({}, "space: it is empty: name a setting to search"),
        (
            {"training.momentum": {"uniform": [0, 0.9], "when": {"training.optimizer": "sgd"}}},
            "space.training.momentum.when: training.optimizer is no other setting of the space",
        ),
        (
            SPACE | {"training.momentum": {"uniform": [0, 0.9], "when": {"training.optimizer": "lars"}}},
            "space.training.momentum.when: training.optimizer is never 'lars'",
        ),
        (
            {
                "training.momentum": {"choice": [0.8], "when": {"training.batch_size": 1}},
                "training.batch_size": {"choice": [1], "when": {"training.momentum": 0.8}},
            },
            "go in a circle",
        ),
    ],
)
def test_a_space_that_cannot_be_is_one_line(space, said):
    refused = refusal(space=space)
    assert said in refused and "more)" not in refused


def test_a_range_is_tried_next_to_the_values_that_its_condition_asks_for():
    """Weight decay is refused with adam; where its condition excludes adam it is fine."""
    decay = {"uniform": [0.001, 0.1]}
    assert "adam has none; take adamw" in refusal(space={"training.weight_decay": decay})
    space = {
        "training.optimizer": {"choice": ["adam", "adamw"]},
        "training.weight_decay": decay | {"when": {"training.optimizer": ["adamw"]}},
    }
    assert sweep(space=space).number == 6


def test_a_setting_may_have_several_ranges_each_under_its_conditions():
    """Every optimizer has rates of its own."""
    rates = [
        {"choice": [0.1, 0.2], "when": {"training.optimizer": "sgd"}},
        {"choice": [1.0, 2.0, 3.0], "when": {"training.optimizer": ["lars"]}},
    ]
    space = {"training.learning_rate": rates, "training.optimizer": {"choice": ["sgd", "lars", "adam"]}}
    one = sweep(search="grid", trials=None, space=space)
    assert [(v["training.optimizer"], v.get("training.learning_rate")) for v in one.grid()] == [
        ("sgd", 0.1),
        ("sgd", 0.2),
        ("lars", 1.0),
        ("lars", 2.0),
        ("lars", 3.0),
        ("adam", None),
    ]
    assert "training.optimizer is never 'lars'" in refusal(space=space | {"training.optimizer": {"choice": ["sgd"]}})
    rates[1]["choice"].append(-1)
    assert "training.learning_rate: input should be greater than 0" in refusal(space=space)


def test_a_range_can_be_given_on_the_command_line_and_the_base_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(BASE | {"name": "other"}))
    one = sweep("space.model.filters={choice: [8]}", "experiment=other.yaml")
    assert one.space["model.filters"][0].choice == (8,) and one.space.keys() == SPACE.keys()
    assert one.experiment.name == "other"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"search": "grid"}, "search: grid takes choice or integers"),
        ({"search": "gird"}, "search: input should be 'grid', 'random', 'tpe' or 'pbt' (got 'gird')"),
        ({"trials": None}, "trials: search: random needs their number"),
        ({"experiment": None}, "experiment: give the base experiment"),
        ({"settings": {"training.epoch": 3}}, "training.epoch: unknown key; the nearest known: training.epochs"),
        ({"trails": 3}, "trails: unknown key; the nearest known: trials"),
        (
            {"space": {"training.batch_size": {"uniform": [2, 8]}}},
            "training.batch_size: input should be a valid integer",
        ),
        ({"space": {"training.momentum": {"uniform": [0.1, 0.2], "step": 2}}}, "step (2) goes with integers"),
        (
            {"for_each": "training.optimizer", "trials": 1},
            "trials (1): at least one for each value of training.optimizer",
        ),
        (
            {"search": "pbt", "finish": "retrain", "space": {"training.learning_rate": {"uniform": [0.1, 1]}}},
            "finish: retrain: what search: pbt finds",
        ),
        ({"for_each": "training.seed"}, "for_each: training.seed is no setting of the space"),
        (
            {"for_each": "training.learning_rate"},
            "for_each: training.learning_rate is no setting of the space with one",
        ),
        ({"search": "pbt", "space": {"training.batch_size": {"choice": [1, 2]}}}, "in the middle of a training"),
        (
            {"search": "pbt", "trials": 1, "space": {"training.learning_rate": {"uniform": [0.1, 1]}}},
            "trials (1): search: pbt needs a population of 2 or more",
        ),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(changes, said):
    assert said in refusal(**changes)


def test_a_missing_experiment_is_named_with_its_folder(tmp_path):
    file = tmp_path / "rates.yaml"
    file.write_text(yaml.safe_dump({"name": "rates", "experiment": "base.yaml", "space": SPACE, "trials": 2}))
    with pytest.raises(InputError, match=f"{tmp_path}/base.yaml: no such experiment file"):
        config.load_sweep(file)
    with pytest.raises(InputError, match="no such sweep file"):
        config.load_sweep(tmp_path / "none.yaml")
