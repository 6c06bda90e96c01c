import json

import numpy as np
import pytest

from r2d2.segeval.summary import case_rows, means

LABELS = {0: "background", 1: "edema", 2: "tumour"}

# Patient one: class 1 has 4 voxels, 3 of them found and 1 called background; one background voxel is called class 1.
# Class 2 is in neither mask. Patient two: class 1 has 2 voxels, both called class 2; class 2 has 1 voxel, found.
ONE = [[5, 1, 0], [1, 3, 0], [0, 0, 0]]
TWO = [[7, 0, 0], [0, 0, 2], [0, 0, 1]]


def rows():
    return case_rows(np.array([ONE, TWO]), [("one_a", "one"), ("two_a", "two")], LABELS)


def test_rows_are_worked_out_patient_by_patient():
    one, two = rows()
    assert (one["case"], one["patient"]) == ("one_a", "one") and two["patient"] == "two"
    assert one["dice/edema"] == pytest.approx(2 * 3 / (4 + 4)) and one["iou/edema"] == pytest.approx(3 / 5)
    assert one["dice"] == pytest.approx(6 / 8)  # of the one class that is there
    assert two["dice/edema"] == 0 and two["dice/tumour"] == pytest.approx(2 * 1 / (1 + 3))
    assert two["iou/tumour"] == pytest.approx(1 / 3)
    assert two["dice"] == pytest.approx((0 + 1 / 2) / 2)


def test_the_papers_scores_are_over_all_classes():
    one, two = rows()
    assert one["pixel_accuracy"] == pytest.approx(8 / 10) and two["pixel_accuracy"] == pytest.approx(8 / 10)
    assert one["mean_accuracy"] == pytest.approx((5 / 6 + 3 / 4) / 2)
    assert two["mean_accuracy"] == pytest.approx((1 + 0 + 1) / 3)
    assert one["mean_iou"] == pytest.approx((5 / 7 + 3 / 5) / 2)
    assert one["frequency_weighted_iou"] == pytest.approx(0.6 * 5 / 7 + 0.4 * 3 / 5)
    assert two["frequency_weighted_iou"] == pytest.approx(0.7 * 1 + 0.2 * 0 + 0.1 / 3)


def test_a_class_in_neither_mask_is_none_and_not_a_number():
    one, _ = rows()
    assert one["dice/tumour"] is None and one["iou/tumour"] is None
    assert "background" not in " ".join(one)


def test_means_are_over_the_patients_that_have_the_class():
    found = means(rows())
    assert found["dice/edema"] == pytest.approx((0.75 + 0) / 2)
    assert found["dice/tumour"] == pytest.approx(0.5)  # of patient two alone
    assert found["dice"] == pytest.approx((0.75 + 0.25) / 2)
    assert "patient" not in found


def test_a_class_that_nobody_has_is_absent_from_the_means():
    found = means(case_rows(np.array([ONE, ONE]), [("one", "one"), ("two", "two")], LABELS))
    assert "dice/tumour" not in found and found["dice"] == pytest.approx(0.75)
    assert means([]) == {}


def test_a_patient_without_any_foreground_has_no_dice_and_spoils_no_mean():
    empty = [[10, 0, 0], [0, 0, 0], [0, 0, 0]]
    table = case_rows(np.array([empty, TWO]), [("empty", "empty"), ("two", "two")], LABELS)
    assert table[0]["dice"] is None and table[0]["pixel_accuracy"] == 1
    assert means(table)["dice"] == pytest.approx(0.25)


def test_names_and_matrices_must_be_as_many():
    with pytest.raises(ValueError, match="longer than argument"):
        case_rows(np.array([ONE, TWO]), [("one", "one")], LABELS)


def test_a_patient_with_several_cases_counts_once():
    visits = [("one_a", "one"), ("one_b", "one"), ("two", "two")]
    found = means(case_rows(np.array([ONE, TWO, TWO]), visits, LABELS))
    assert found["dice/edema"] == pytest.approx(((0.75 + 0) / 2 + 0) / 2)
    assert found["dice/tumour"] == pytest.approx((0.5 + 0.5) / 2)  # patient one's is that of the second visit
    assert found["dice"] == pytest.approx(((0.75 + 0.25) / 2 + 0.25) / 2)


def test_rows_and_means_are_json_without_nan():
    text = json.dumps([rows(), means(rows())], allow_nan=False)
    assert json.loads(text)[0][0]["dice/tumour"] is None
