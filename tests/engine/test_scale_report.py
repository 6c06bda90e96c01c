"""A scaling study's report, from runs as its driver keeps them."""

import csv
import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from r2d2 import config
from r2d2.engine import scale_report
from r2d2.engine.scale_report import in_quadrature, loss_between, over_repeats, verdict

ACCURACY = Path(__file__).parents[2] / "experiments" / "scaling" / "accuracy.py"

EXPERIMENT = config.parse("name: a\ndata: {path: /scans}\ntraining: {warmup_epochs: 2, batch_size: 4}")
RULES = ["linear", "linear+warm-up"]
STEP_S = {1: 0.1, 2: 0.11, 4: 0.12}
LOST = {1: 0.0, 2: 0.001, 4: 0.002, 18: 0.05}
PATIENTS = [f"P{number}" for number in range(8)]


def rows(dice):
    """Scores of eight patients, the first with two scans."""
    scores = {"mean_iou": dice - 0.1, "mean_accuracy": dice, "pixel_accuracy": 0.9, "frequency_weighted_iou": 0.8}
    kept = [
        {"case": name, "patient": name, "dice": dice + 0.01 * number, "hd95_mm": None} | scores
        for number, name in enumerate(PATIENTS)
    ]
    return [*kept, kept[0] | {"case": "P0-2"}]


def run(child, **changes):
    """What is known of a run that came to its end: three epochs of ten steps, the first slow."""
    step = STEP_S.get(child.workers, 1.0) * (1.01 if child.repeat else 1.0)
    epoch = {"time/input_s": 0.0, "time/communication_s": 0.2 * step, "time/compute_s": 9.8 * step}
    epoch |= {"time/epoch_s": 10 * step, "time/images_per_s": 4 * child.workers / step}
    first = epoch | {"time/epoch_s": 90.0, "time/images_per_s": 1.0}
    dice = 0.8 - LOST[child.workers] * (1.0 if child.rules[0] == "linear" else 0.5) + 0.0001 * child.repeat
    history = [first | {"epoch": 1.0}, *(epoch | {"epoch": float(number)} for number in (2, 3))]
    measured = {
        "history": history,
        "updates": 30,
        "training_s": {1: 100.0, 4: 40.0}.get(child.workers, 60.0),
        "rows": rows(dice),
        "costs": {"cost/cpu_hours": 2.0},
    }
    known = {"run_id": f"r{child.number}", "outcome": "finished", "reason": "", "seconds": 1.0, "measured": measured}
    about = {"number": child.number, "workers": child.workers, "virtual": child.virtual, "rules": list(child.rules)}
    return about | {"repeat": child.repeat} | known | changes


@pytest.fixture(scope="module")
def study():
    return config.study(EXPERIMENT, [1, 2, 4], [18], RULES, 2)


@pytest.fixture(scope="module")
def told(study):
    return scale_report.scaling(study, "parent", [run(child) for child in study.children()], 1)


def summary(told, workers, rule="linear"):
    (found,) = [one for one in told["summaries"] if (one["workers"], one["rule"]) == (workers, rule)]
    return found


def test_time_leaves_the_epoch_out_in_which_the_step_is_traced(told):
    point = next(one for one in told["points"] if (one["workers"], one["rule"], one["repeat"]) == (2, "linear", 0))
    assert point["step_s"] == pytest.approx(0.11) and point["epoch_s"] == pytest.approx(1.1)
    assert point["communication_s"] == pytest.approx(0.02 * 0.11) and point["training_s"] == 60.0
    assert point["images_per_s"] == pytest.approx(8 / 0.11)
    assert point["cpu_hours"] == 2.0 and point["cpu_kwh"] is None and told["energy"] is False
    assert summary(told, 2)["cpu_hours"]["value"] == 2.0 and summary(told, 2)["kwh"] is None
    assert summary(told, 18)["cpu_hours"] is None


def test_efficiency_is_against_one_worker_of_the_same_seed_and_virtual_workers_have_none(told):
    four = summary(told, 4)
    assert four["speedup"]["value"] == pytest.approx(4 * 0.1 / 0.12)
    assert four["training_speedup"]["value"] == pytest.approx(100 / 40)
    assert four["efficiency"]["value"] == pytest.approx(0.1 / 0.12)
    assert four["efficiency"]["low"] == pytest.approx(0.1 / 0.12)  # both seeds are slower by the same
    assert four["step_s"]["low"] < four["step_s"]["value"] < four["step_s"]["high"]
    assert summary(told, 18)["step_s"] is None and summary(told, 18)["efficiency"] is None


def test_a_run_that_rules_share_is_a_point_of_each(told):
    alone = [one for one in told["points"] if one["workers"] == 1]
    assert len(alone) == 4 and len({one["run_id"] for one in alone}) == 2


def test_the_loss_is_in_points_and_paired_and_both_intervals_count(told):
    lost = summary(told, 18)["loss"]["dice"]
    assert lost["value"] == pytest.approx(5.0) and lost["pairs"] == 2
    assert lost["low"] <= lost["low_patients"] and lost["high"] >= lost["high_repeats"]
    assert summary(told, 18, "linear+warm-up")["loss"]["dice"]["value"] == pytest.approx(2.5)
    assert summary(told, 1)["loss"] == {} and summary(told, 1)["baseline"] is True
    assert (summary(told, 18)["verdict"], summary(told, 4)["verdict"]) == ("loses more", "loses less")


def test_half_widths_over_patients_and_seeds_are_added_in_quadrature():
    both = in_quadrature(5.0, 2.0, 9.0, {"value": 5.0, "low": 1.0, "high": 8.0})
    assert (both["low"], both["high"]) == (0.0, 10.0)  # 3 and 4 below, 4 and 3 above: 5 each
    assert (both["low_patients"], both["high_repeats"]) == (2.0, 8.0)
    assert math.isnan(in_quadrature(5.0, 2.0, 9.0, over_repeats([5.0]))["low"])
    # Patients who all lose the same: Student's interval of the seeds' 1, 2 and 3 points.
    before = {seed: rows(0.8) for seed in range(3)}
    lost = loss_between(before, {seed: rows(0.8 - 0.01 * (seed + 1)) for seed in range(3)}, "dice")
    assert lost["pairs"] == 3 and lost["low_patients"] == pytest.approx(2.0)
    assert lost["high"] == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-3)


def test_a_patient_s_scans_count_once(told):
    # Of the first patient's two scans one value; all nine scans would have another mean.
    assert summary(told, 1)["scores"]["dice"]["value"] == pytest.approx(0.8 + 0.01 * 3.5 + 0.00005)
    assert summary(told, 1)["scores"]["dice"]["patients"] == 8


def test_one_seed_decides_nothing():
    lost = loss_between({0: rows(0.8)}, {0: rows(0.8)}, "dice")
    assert lost["value"] == 0 and np.isnan(lost["high"]) and verdict(lost) == "undecided"
    assert loss_between({0: rows(0.8)}, {1: rows(0.8)}, "dice") is None


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.2, 0.3, "loses less"), (0.31, 0.5, "loses more"), (-0.1, 0.4, "undecided"), (0.1, 0.31, "undecided")],
)
def test_only_an_upper_bound_of_a_third_of_a_point_counts_as_no_loss(low, high, said):
    assert verdict({"value": 0.2, "low": low, "high": high}) == said


def test_student_s_interval_of_three():
    found = over_repeats([1.0, 2.0, 3.0])
    assert found["value"] == 2 and found["high"] == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-3)
    found = over_repeats([1.0, 4.0], positive=True)
    assert found["value"] == pytest.approx(2) and found["low"] > 0 and found["low"] * found["high"] == pytest.approx(4)
    assert over_repeats([]) is None and np.isnan(over_repeats([1.0])["low"])


def test_more_workers_are_predicted_from_the_first_rule_s_steps(told):
    assert told["model"]["compute_s"] == pytest.approx(0.1005)
    ahead = {one["workers"]: one for one in told["predictions"]}
    assert [*ahead] == [8, 18, 64] and 0.12 < ahead[8]["step_s"] < 0.15
    assert ahead[64]["efficiency"] < ahead[8]["efficiency"] < 1


def test_what_two_numbers_of_workers_cannot_tell_is_said_above_the_predictions(told):
    assert "Predicted from the steps of 1, 2 and 4 workers" in scale_report.table(told)
    assert "is taken as 0" not in scale_report.table(told)
    study = config.study(EXPERIMENT, [1, 2], [], RULES, 1)
    two = scale_report.scaling(study, "parent", [run(child) for child in study.children()], 1)
    page = scale_report.table(two)
    assert two["model"]["latency_s"] == 0 and "of 1 and 2 workers" in page
    assert page.index("is taken as 0") < page.index("| workers | step s")


def test_it_is_written_with_tables_and_pictures_that_show_something(told, tmp_path):
    files = scale_report.write(tmp_path / "report", told)
    names = [path.name for path in files]
    assert names == ["loss.png", "points.csv", "scaling.json", "scores.png", "table.md", "time.png"]
    assert json.loads(files[2].read_text()) == told
    with files[1].open(newline="") as file:
        kept = [*csv.DictReader(file)]
    assert len(kept) == len(told["points"]) == 16 and float(kept[0]["dice"]) > 0.8 and kept[0]["hd95_mm"] == ""
    page = files[4].read_text()
    assert "| linear | 18 virtual | 2 |  | 30 |" in page and ", 2 pairs | loses more |" in page and "RAPL" in page
    assert "speedup of the step | speedup of the training" in page and "| kWh" not in page
    for picture in (path for path in files if path.suffix == ".png"):
        assert imread(picture).std() > 0.05


def test_all_marks_beside_each_other_are_inside_the_axes(told):
    told = told | {"summaries": [one | {"rule": f"{one['rule']} {n}"} for n in range(6) for one in told["summaries"]]}
    for figure in (scale_report.losses(told), scale_report.curves(told)):
        for axes in figure.axes:
            low, high = axes.get_xlim()
            bars = [bar.lines[0].get_xdata()[0] for bar in axes.containers]
            assert len({*bars}) > 12 and low < min(bars) and max(bars) < high


def test_energy_is_summed_up_in_the_table_and_drawn(study, tmp_path):
    runs = [run(child) for child in study.children()]
    for one in runs:
        one["measured"]["costs"] |= {"cost/cpu_kwh": 0.2, "cost/gpu_kwh": 0.1 * one["workers"]}
    told = scale_report.scaling(study, "parent", runs, 1)
    assert told["energy"] and summary(told, 4)["kwh"]["value"] == pytest.approx(0.6)
    assert "| 0.6000 (0.6000 to 0.6000) |" in scale_report.table(told) and "Energy:" not in scale_report.table(told)
    assert len(scale_report.times(told).axes) == 5


def test_virtual_workers_energy_is_not_measured_rather_than_not_readable():
    study = config.study(EXPERIMENT, [], [1, 4], RULES, 1)
    told = scale_report.scaling(study, "parent", [run(child) for child in study.children()], 1)
    assert "Energy: not measured." in scale_report.table(told) and "RAPL" not in scale_report.table(told)


DIVERGED = {"outcome": "diverged", "reason": "NaN", "measured": {}}


def test_a_rule_that_diverged_in_a_seed_never_loses_less_and_in_all_it_loses_more(study, tmp_path):
    def gone(one):
        of = (one["workers"], one["rules"][0])
        return of == (18, "linear") or (of == (4, "linear") and one["repeat"] == 1)

    runs = [run(child) for child in study.children()]
    told = scale_report.scaling(study, "parent", [one | DIVERGED if gone(one) else one for one in runs], 1)
    all_of_it, some, none = summary(told, 18), summary(told, 4), summary(told, 4, "linear+warm-up")
    assert (all_of_it["repeats"], all_of_it["diverged"], all_of_it["verdict"]) == (0, 2, "loses more")
    assert all_of_it["scores"] == all_of_it["loss"] == {} and all_of_it["updates"] is None
    assert (some["repeats"], some["diverged"], some["verdict"]) == (1, 1, "undecided")
    assert some["loss"]["dice"]["pairs"] == 1 and (none["diverged"], none["verdict"]) == (0, "loses less")
    page = scale_report.table(told)
    assert "| linear | 18 virtual | 0 | 2 of 2 | - | - | - | loses more |" in page and "| 1 | 1 of 2 | 30 |" in page
    assert len(scale_report.write(tmp_path / "report", told)) == 6


def test_survivors_decide_nothing_for_the_better():
    lost = {"value": 0.1, "low": 0.0, "high": 0.2}
    assert verdict(lost) == verdict(lost, 0, 3) == "loses less" and verdict(lost, 1, 3) == "undecided"
    assert verdict(lost | {"low": 1.0, "high": 2.0}, 1, 3) == "loses more"
    assert (verdict(None, 3, 3), verdict(None, 1, 1), verdict(None, 1, 2)) == ("loses more", "undecided", "undecided")


def test_a_baseline_that_diverged_in_a_seed_condemns_nobody(study):
    runs = [run(child) for child in study.children()]
    runs = [one | DIVERGED if (one["workers"], one["repeat"]) == (1, 1) else one for one in runs]
    told = scale_report.scaling(study, "parent", runs, 1)
    assert summary(told, 1)["baseline"] and summary(told, 1)["diverged"] == 1
    assert {summary(told, count)["verdict"] for count in (2, 18)} == {"undecided"}


def test_a_baseline_without_a_seed_is_none(study, tmp_path):
    runs = [run(child) for child in study.children()]
    told = scale_report.scaling(study, "parent", [one | DIVERGED if one["workers"] == 1 else one for one in runs], 1)
    assert told["baseline"] is None and told["model"] is None
    assert {(one["baseline"], one["verdict"]) for one in told["summaries"]} == {(False, "")}
    assert "loss.png" not in [path.name for path in scale_report.write(tmp_path / "report", told)]


def test_runs_that_failed_are_told_and_left_out(study):
    lost = {"outcome": "failed", "reason": "the host is gone", "measured": {}}
    runs = [one | lost if one["workers"] > 1 else one for one in (run(child) for child in study.children())]
    told = scale_report.scaling(study, "parent", runs, 1)
    assert [(one["workers"], one["diverged"]) for one in told["summaries"]] == [(1, 0), (1, 0)]
    assert told["model"] is None
    assert {one["reason"] for one in told["points"] if one["workers"] == 18} == {"the host is gone"}


@pytest.fixture(scope="module")
def accuracy():
    return runpy.run_path(str(ACCURACY))


def test_the_parts_of_the_loss_are_of_the_same_seeds_and_add_up(accuracy):
    dice = {"linear": 0.8, "none": 0.5, accuracy["SAME_RATE"]: 0.7}

    def one(rule, repeat):
        kept = {"rows": rows(dice[rule] - 0.03 * repeat * (rule == "none"))}
        told = {"rules": [rule], "workers": 1 if rule == "linear" else accuracy["LARGEST"], "repeat": repeat}
        return told | {"outcome": "finished", "measured": kept}

    runs = [one(rule, repeat) for rule in dice for repeat in range(3)]
    runs[-1] |= DIVERGED  # the third seed of as many updates, so that it counts nowhere
    split = accuracy["split_of_loss"](runs)
    assert {split[part]["pairs"] for part in ("all", "updates", "batch")} == {2} and split["diverged"] == 1
    assert split["all"]["value"] == pytest.approx(30 + 3 / 2)
    assert split["all"]["value"] == pytest.approx(split["updates"]["value"] + split["batch"]["value"])
    assert accuracy["split_of_loss"](runs[:6]) is None


def test_a_stage_is_named_by_what_its_runs_are_told(accuracy):
    planned = accuracy["planned"]
    first = planned("brain", "alone", [18], ["none"])
    assert first.experiment.name.startswith("brain-alone-") and planned("brain", "alone", [18], ["none"]) == first
    others = (
        planned("brain", "alone", [18], ["none"], training__learning_rate=0.02),
        planned("brain", "alone", [18], ["sqrt"]),
        planned("brain", "alone", [12], ["none"]),
    )
    assert len({one.name for one in (first, *others)}) == 4
