import numpy as np
from helpers.packages import LABELS, experiment, metadata

from r2d2 import config
from r2d2.segeval import CaseScores, Tally
from r2d2.tracking import card as cards


def tally(*hits):
    made = Tally(LABELS)
    for number, hit in enumerate(hits):
        made.add(CaseScores(f"p{number}", f"p{number}", np.array([[[900, 0], [100 - hit, hit]]]), 0.001))
    return made


def card(folder, scores, told=None, **known):
    settings = experiment(folder)
    settings = settings.model_copy(update={"card": config.Card(**(told or {}))})
    origin = cards.lineage("run1", "data1", "commit1", {"keras": "3"})
    tested = [row["case"] for row in scores.rows]
    known = metadata(folder, **known)
    known["split"]["test"] = tested
    return cards.make(settings, known, scores, None, "CC BY-NC 3.0", 1234, origin)


def test_a_card_says_what_the_run_knows_and_what_people_told(tmp_path):
    parent = {"model": "brain/2", "seen": []}
    found = card(tmp_path, tally(90, 80, 40), {"task": "lesions", "known_failures": ["metal"]}, parents=[parent])
    assert (found["task"], found["modality"], found["licence"]) == ("lesions", "T1w", "CC BY-NC 3.0")
    assert found["labels"] == {"0": "background", "1": "lesion"} and found["patients"]["test"] == 3
    assert [one["patient"] for one in found["worst"]] == ["p2", "p1", "p0"]
    dice = [2 * hit / (hit + 100) for hit in (90, 80, 40)]
    assert abs(found["scores"]["dice"]["value"] - np.mean(dice)) < 1e-12
    assert found["scores"]["dice/lesion"]["low"] < np.mean(dice) < found["scores"]["dice/lesion"]["high"]
    assert found["lineage"]["parents"] == ["brain/2"] and found["lineage"]["run"] == "run1"
    text = cards.text(found)
    for told in ("lesions", "metal", "CC BY-NC 3.0", "Started from brain/2", "p2 (Dice 0.571)", "1,234 parameters"):
        assert told in text


def test_a_card_tells_of_patients_in_whom_it_failed(tmp_path):
    failures = " ".join(card(tmp_path, tally(90, 20, 0))["known_failures"])
    assert "Dice below 0.5 on 2 of 3 test patients: p2 (0.00), p1 (0.33)." in failures
    assert "lesion not found at all in 1 test patient with it: p2." in failures
    assert card(tmp_path, tally(90, 80))["known_failures"] == []


def test_a_model_that_was_never_tested_says_so(tmp_path):
    found = card(tmp_path, Tally(LABELS))
    assert "has not been tested" in found["known_failures"][0]
    assert "None: there were no test patients" in cards.text(found)
    assert "r2d2.dice" not in cards.tags(found)


def test_a_list_of_models_shows_task_classes_and_dice_with_its_interval(tmp_path):
    found = cards.tags(card(tmp_path, tally(90, 80, 70)))
    assert found["r2d2.classes"] == "lesion" and found["r2d2.task"] == "lesion"
    assert float(found["r2d2.dice_low"]) < float(found["r2d2.dice"]) < float(found["r2d2.dice_high"])
    (one,) = [cards.tags(card(tmp_path, tally(90)))]
    assert one["r2d2.dice_low"] == ""
