"""The gate's rules, on scores that are made up."""

import numpy as np

from r2d2 import config
from r2d2.engine.promote import refusals, strictest
from r2d2.segeval import CaseScores, Tally

LABELS = {0: "background", 1: "lesion"}
POLICY = config.Promotion(min_patients=5, allowed_loss=0.02, floor=0.3)


def tally(*hits, size=100):
    """Patients with a lesion of so many voxels, of which so many are found and none beside it."""
    made = Tally(LABELS)
    for number, hit in enumerate(hits):
        matrix = np.array([[[1000, 0], [size - hit, hit]]])
        made.add(CaseScores(f"p{number}", f"p{number}", matrix, 0.001))
    return made


GOOD = (90, 80, 70, 95, 85, 75)


def test_an_equal_model_is_accepted_and_a_better_one():
    assert refusals(POLICY, tally(*GOOD), tally(*GOOD)) == []
    assert refusals(POLICY, tally(*(hit + 5 for hit in GOOD)), tally(*GOOD)) == []


def test_a_model_that_is_worse_by_more_than_the_allowed_loss_is_refused():
    (told,) = refusals(POLICY, tally(*(hit - 10 for hit in GOOD)), tally(*GOOD))
    assert "promotion.allowed_loss is 0.02" in told
    slightly = tally(*(hit - 1 for hit in GOOD))
    assert refusals(POLICY, slightly, tally(*GOOD)) == []


def test_a_difference_that_may_be_a_loss_is_refused():
    """Better in the mean, but by one patient of six, and the others are worse."""
    (told,) = refusals(POLICY, tally(85, 75, 65, 90, 80, 100), tally(90, 80, 70, 95, 85, 60))
    assert "Dice less the champion's is +0." in told


def test_a_patient_below_the_floor_is_a_refusal_also_of_the_first_champion():
    (told,) = refusals(POLICY, tally(*GOOD[:5], 10), None)
    assert told == "Dice below promotion.floor (0.3) in 1 patients: p5 0.182"
    assert refusals(POLICY, tally(*GOOD), None) == []


def test_fewer_patients_than_the_policy_asks_for_are_a_refusal_with_and_without_a_champion():
    for champion in (None, tally(*GOOD[:4])):
        (told,) = refusals(POLICY, tally(*GOOD[:4]), champion)
        assert told == "4 patients to judge on, promotion.min_patients is 5"
    nobody = Tally(LABELS)
    assert refusals(POLICY, nobody, nobody) == ["0 patients to judge on, promotion.min_patients is 5"]


def test_what_the_champion_finds_may_not_be_found_nowhere():
    lenient = config.Promotion(min_patients=5, allowed_loss=1.0, floor=0.0)
    (told,) = refusals(lenient, tally(*GOOD[:5], 0), tally(*GOOD))
    assert told == "lesion is found nowhere in p5, where it is and the champion finds it"
    assert refusals(lenient, tally(*GOOD[:5], 0), tally(*GOOD[:5], 0)) == []


def test_patients_with_nothing_to_find_do_not_count():
    five = tally(*GOOD[:5])
    five.add(CaseScores("empty", "empty", np.array([[[1000, 0], [0, 0]]]), 0.001))
    assert refusals(POLICY, five, None) == []
    four = tally(*GOOD[:4])
    four.add(CaseScores("empty", "empty", np.array([[[1000, 0], [0, 0]]]), 0.001))
    assert "4 patients" in refusals(POLICY, four, None)[0]


def test_no_candidate_brings_a_laxer_gate_than_the_champion_passed():
    lax = config.Promotion(min_patients=3, allowed_loss=1.0, floor=0.0)
    assert strictest([lax, POLICY]) == POLICY == strictest([POLICY, lax]) == strictest([POLICY])


def test_losses_that_differ_by_rounding_alone_are_refused():
    """Of such the interval by resampling is no number, and a gate that compares with that lets all through."""
    worse, champion = tally(*(50,) * 6), tally(*(90,) * 6)
    for number, row in enumerate(worse.rows):
        row["dice"] += number * 2**-53
    (told,) = refusals(POLICY, worse, champion)
    assert "promotion.allowed_loss" in told
