"""A scaling study's runs: which rules change what, which runs are the same, and what is refused."""

import pytest

from r2d2 import config
from r2d2.config.scale import rule_values
from r2d2.errors import InputError
from r2d2.training.schedule import total_steps

EXPERIMENT = config.parse(
    "name: a\ndata: {path: /scans}\ntraining: {warmup_epochs: 2, learning_rate: 0.1, seed: 7}\n"
    "evaluation: {every_epochs: 3}"
)
NONE = {"training.warmup_epochs": 0.0, "training.warmup_steps": None}


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ("file", {}),
        ("file:0.3", {"training.learning_rate": 0.3}),
        ("linear", {"training.scaling": "linear"} | NONE),
        ("linear+warm-up", {"training.scaling": "linear"}),
        ("sqrt+warm-up:0.3", {"training.scaling": "sqrt", "training.learning_rate": 0.3}),
        (
            "lars:2",
            {"training.optimizer": "lars", "training.scaling": "linear", "training.learning_rate": 2.0} | NONE,
        ),
        (
            "lamb+warm-up:0.01",
            {"training.optimizer": "lamb", "training.scaling": "sqrt", "training.learning_rate": 0.01},
        ),
        ("same-updates+sqrt+warm-up", {"training.updates": "same-updates", "training.scaling": "sqrt"}),
    ],
)
def test_what_a_rule_changes(rule, values):
    assert rule_values(rule, EXPERIMENT) == values


def test_every_seed_and_number_of_workers_is_paired_over_the_rules():
    study = config.study(EXPERIMENT, [1, 2], [4], ["linear", "linear+warm-up", "lars:2"], 2)
    children = study.children()
    told = [(child.workers, child.virtual, child.rules, child.repeat) for child in children]
    both = ("linear", "linear+warm-up")  # one run: one worker has nothing to scale and nothing to climb to
    assert told[:5] == [
        (1, False, both, 0),
        (1, False, ("lars:2",), 0),
        *((2, False, (rule,), 0) for rule in ("linear", "linear+warm-up", "lars:2")),
    ]
    assert [child.virtual for child in children] == [False] * 10 + [True] * 6
    made = [study.of(child) for child in children]
    assert [one.training.seed for one in made] == [7 + child.repeat for child in children]
    assert [one.logical_workers for one in made] == [child.workers for child in children]
    assert {one.cluster.workers for one, child in zip(made, children, strict=True) if child.virtual} == {1}
    assert [child.number for child in children] == [*range(16)]


def test_one_worker_that_warms_up_from_zero_is_trained_with_and_without():
    experiment = config.parse("name: a\ndata: {path: /scans}\ntraining: {warmup_from: zero}")
    study = config.study(experiment, [1], [], ["linear", "sqrt", "linear+warm-up"], 1)
    assert [child.rules for child in study.children()] == [("linear", "sqrt"), ("linear+warm-up",)]


def test_as_many_updates_are_validated_as_often_by_updates():
    study = config.study(EXPERIMENT, [], [1, 6], ["same-updates"], 1)
    assert [study.of(child).evaluation.every_epochs for child in study.children()] == [3, 18]


def test_a_study_is_read_back_as_it_was_written():
    study = config.study(EXPERIMENT, [1, 2], [18], ["linear", "lamb:0.01"], 3)
    assert config.parse_study(study.to_yaml(), "it") == study


def test_as_many_updates_are_warmed_up_in_the_same_share_of_them():
    study = config.study(EXPERIMENT, [], [1, 6], ["same-updates+warm-up", "linear+warm-up", "same-updates"], 1)
    told = {(child.workers, child.rules[0]): study.of(child).training for child in study.children()}
    assert [one.warmup_epochs for one in told.values()] == [2, 12, 2, 0]
    batch = EXPERIMENT.training.batch_size
    slices = 600 * batch
    for (workers, rule), training in told.items():
        an_epoch = slices // (batch * workers)
        total = total_steps(training, an_epoch, slices)
        share = training.warmup_epochs * an_epoch / total
        assert share == pytest.approx(0 if rule == "same-updates" else 2 / training.epochs)


@pytest.mark.parametrize(
    ("workers", "virtual", "rules", "said"),
    [
        ([], [], ["linear"], "give numbers of workers"),
        ([0], [], [], "greater than or equal to 1"),
        ([1, 2], [2], [], "2 is there twice"),
        ([1], [], ["linear", "linear"], "one is there twice"),
        ([1], [], ["cubic"], "no rule 'cubic'; there are file, none, linear"),
        ([1], [], ["lars"], "lars: sgd's base rate is not its own; give it, lars:RATE"),
        ([1], [], ["linear:fast"], "'fast' is no base rate"),
        ([1], [], ["linear:-1"], "a base rate is > 0"),
    ],
)
def test_what_cannot_be_is_one_line(workers, virtual, rules, said):
    with pytest.raises(InputError) as refused:
        config.study(EXPERIMENT, workers, virtual, rules, 1)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_warm_up_that_the_file_lacks_is_not_made_up():
    without = config.parse("name: a\ndata: {path: /scans}\ntraining: {warmup_epochs: 0}")
    with pytest.raises(InputError, match="the file has no warm-up"):
        config.study(without, [1], [], ["linear+warm-up"], 1)
