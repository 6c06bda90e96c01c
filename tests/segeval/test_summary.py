import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d2 import segeval
from r2d2.errors import InputError

LABELS = {0: "background", 1: "edema", 2: "tumour"}
OVERLAP = ("dice", "iou", "sensitivity", "specificity", "precision", "f2")
DISTANCES = ("hausdorff_mm", "hd95_mm", "assd_mm")

# Patient one: class 1 has 4 voxels, 3 of them found and 1 called background; one background voxel is called class 1.
# Class 2 is in neither mask. Patient two: class 1 has 2 voxels, both called class 2; class 2 has 1 voxel, found.
ONE = [[5, 1, 0], [1, 3, 0], [0, 0, 0]]
TWO = [[7, 0, 0], [0, 0, 2], [0, 0, 1]]
EMPTY = [[10, 0, 0], [0, 0, 0], [0, 0, 0]]


def tally(*scans, voxel_ml=0.5):
    """Of (case, patient, matrix or matrices of slices)."""
    made = segeval.Tally(LABELS)
    for case, patient, matrices in scans:
        slices = np.array(matrices, np.int64).reshape(-1, 3, 3)
        made.add(segeval.CaseScores(case, patient, slices, voxel_ml))
    return made


def both():
    return tally(("one_a", "one", ONE), ("two_a", "two", TWO))


def test_rows_are_worked_out_scan_by_scan():
    one, two = both().rows
    assert (one["case"], one["patient"]) == ("one_a", "one") and two["patient"] == "two"
    assert one["dice/edema"] == pytest.approx(2 * 3 / (4 + 4)) and one["iou/edema"] == pytest.approx(3 / 5)
    assert (one["sensitivity/edema"], one["precision/edema"]) == (3 / 4, 3 / 4)
    assert one["specificity/edema"] == pytest.approx(5 / 6) and one["f2/edema"] == pytest.approx(5 * 3 / (4 * 4 + 4))
    assert one["dice"] == pytest.approx(6 / 8) and one["iou"] == pytest.approx(3 / 5)  # of the one class that is there
    assert two["dice/edema"] == 0 and two["dice/tumour"] == pytest.approx(2 * 1 / (1 + 3))
    assert two["iou/tumour"] == pytest.approx(1 / 3)
    assert two["dice"] == pytest.approx((0 + 1 / 2) / 2)


def test_volumes_are_in_ml():
    _, two = both().rows
    assert (two["reference_ml/edema"], two["volume_ml/edema"], two["volume_error_ml/edema"]) == (1.0, 0.0, -1.0)
    assert (two["reference_ml/tumour"], two["volume_ml/tumour"], two["volume_error_ml/tumour"]) == (0.5, 1.5, 1.0)


def test_the_papers_scores_are_over_all_classes():
    one, two = both().rows
    assert one["pixel_accuracy"] == pytest.approx(8 / 10) and two["pixel_accuracy"] == pytest.approx(8 / 10)
    assert one["mean_accuracy"] == pytest.approx((5 / 6 + 3 / 4) / 2)
    assert two["mean_accuracy"] == pytest.approx((1 + 0 + 1) / 3)
    assert one["mean_iou"] == pytest.approx((5 / 7 + 3 / 5) / 2)
    assert one["frequency_weighted_iou"] == pytest.approx(0.6 * 5 / 7 + 0.4 * 3 / 5)
    assert two["frequency_weighted_iou"] == pytest.approx(0.7 * 1 + 0.2 * 0 + 0.1 / 3)
    assert one["kappa"] == pytest.approx((0.8 - (0.6 * 0.6 + 0.4 * 0.4)) / (1 - (0.6 * 0.6 + 0.4 * 0.4)))


def test_a_class_in_neither_mask_is_no_number():
    one, _ = both().rows
    assert all(math.isnan(one[f"{score}/tumour"]) for score in OVERLAP)
    assert one["volume_ml/tumour"] == one["reference_ml/tumour"] == 0
    assert "background" not in " ".join(one)


def test_means_are_over_the_patients_that_have_the_class():
    found = both().means()
    assert found["dice/edema"] == pytest.approx((0.75 + 0) / 2)
    assert found["dice/tumour"] == pytest.approx(0.5)  # of patient two alone
    assert found["dice"] == pytest.approx((0.75 + 0.25) / 2)
    assert "patient" not in found


def test_a_class_that_nobody_has_is_absent_from_the_means():
    found = tally(("one", "one", ONE), ("two", "two", ONE)).means()
    assert not [name for name in found if name.startswith("dice") and "tumour" in name]
    assert found["dice"] == pytest.approx(0.75)
    assert segeval.Tally(LABELS).means() == {}


def test_the_foreground_is_every_class_but_0_in_the_order_of_the_values():
    assert segeval.foreground({10: "necrosis", 0: "air", 2: "edema"}) == [(2, "edema"), (10, "necrosis")]
    assert segeval.foreground({0: "air"}) == []


def test_a_patient_without_any_foreground_has_no_dice_and_spoils_no_mean():
    found = tally(("empty", "empty", EMPTY), ("two", "two", TWO))
    assert math.isnan(found.rows[0]["dice"]) and found.rows[0]["pixel_accuracy"] == 1
    assert found.means()["dice"] == pytest.approx(0.25)
    assert found.estimates()["dice"].n == 1


def test_a_patient_with_several_cases_counts_once():
    found = tally(("one_a", "one", ONE), ("one_b", "one", TWO), ("two", "two", TWO)).means()
    assert found["dice/edema"] == pytest.approx(((0.75 + 0) / 2 + 0) / 2)
    assert found["dice/tumour"] == pytest.approx((0.5 + 0.5) / 2)  # patient one's is that of the second visit
    assert found["dice"] == pytest.approx(((0.75 + 0.25) / 2 + 0.25) / 2)


def test_one_dataset_put_together_in_three_ways():
    # A large slice that is right and a small one that is wrong; then a scan with nothing.
    large, small = [[0, 0, 0], [0, 90, 0], [0, 0, 0]], [[0, 0, 0], [10, 0, 0], [0, 0, 0]]
    found = tally(("a", "a", [large, small]), ("b", "b", [EMPTY, small])).means()
    assert found["dice/edema"] == pytest.approx((2 * 90 / (100 + 90) + 0) / 2)
    assert found["dice_pooled/edema"] == pytest.approx(2 * 90 / (110 + 90))
    assert found["dice_slice/edema"] == pytest.approx((1 + 0 + 0) / 3)  # the slice without it is left out
    assert found["pixel_accuracy_pooled"] == pytest.approx(100 / 120)
    assert found["pixel_accuracy_slice"] == pytest.approx((1 + 0 + 1 + 0) / 4)


def test_every_name_has_a_definition():
    rng = np.random.default_rng(0)
    made = segeval.Tally(LABELS)
    for number in range(3):
        masks = rng.integers(0, 3, (2, 5, 6, 4)).astype(np.uint8)
        made.add(segeval.score_case(f"{number}", f"{number}", *masks, LABELS, (3, 2, 1)))
    told = segeval.definitions([*made.estimates(), *made.means()], tolerance_mm=1.5, plane="coronal")
    assert "n_ij: voxels of class i predicted as j" in told["symbols"] and "neither mask" in told["empty_masks"]
    assert "of edema" in told["dice/edema"] and "whole volume" in told["dice/edema"]
    assert "other than background" in told["dice"] and "background among them" in told["mean_dice"]
    assert "voxels of all scans put together" in told["dice_pooled"] and "each coronal slice" in told["mean_iou_slice"]
    assert "in mm" in told["hd95_mm/tumour"] and "median over patients" in told["hd95_mm/tumour"]
    assert "within 1.5 mm" in told["surface_dice"] and "in ml" in told["volume_error_ml/edema"]
    with pytest.raises(KeyError):
        segeval.definition("nothing/edema")


def scored(reference, prediction, **more):
    return segeval.score_case(
        "a", "a", np.array(reference, np.uint8), np.array(prediction, np.uint8), LABELS, (3.0, 2.0, 1.0), **more
    )


def masks(of_reference, of_prediction):
    """Two masks of 4x4x4: class 1 fills a corner of both; class 2 a voxel each, if asked for."""
    found = np.zeros((2, 4, 4, 4), np.uint8)
    found[:, :2, :2, :2] = 1
    found[0, 3, 3, 3], found[1, 3, 3, 2] = 2 * of_reference, 2 * of_prediction
    return found


def row_of(*pair):
    made = segeval.Tally(LABELS)
    made.add(scored(*masks(*pair)))
    return made.rows[0]


def test_the_empty_mask_in_all_its_cases():
    both_empty, missed, invented, found = row_of(0, 0), row_of(1, 0), row_of(0, 1), row_of(1, 1)
    assert all(math.isnan(both_empty[f"{score}/tumour"]) for score in (*OVERLAP, *DISTANCES, "surface_dice"))
    assert all(missed[f"{score}/tumour"] == 0 for score in ("dice", "iou", "sensitivity", "precision", "f2"))
    assert missed["surface_dice/tumour"] == 0 and missed["specificity/tumour"] == 1
    assert all(missed[f"{score}/tumour"] == math.inf for score in DISTANCES)
    assert all(invented[f"{score}/tumour"] == 0 for score in ("dice", "iou", "precision", "f2", "surface_dice"))
    assert all(invented[f"{score}/tumour"] == math.inf for score in DISTANCES)
    assert math.isnan(invented["sensitivity/tumour"]) and invented["specificity/tumour"] == 63 / 64
    assert found["hausdorff_mm/tumour"] == 1.0 and found["surface_dice/tumour"] == 1

    lesions = ("lesions", "lesion_sensitivity", "false_lesions")
    assert [missed[f"{name}/tumour"] for name in lesions] == [1, 0, 0]
    assert [found[f"{name}/tumour"] for name in lesions] == [1, 0, 1]
    assert invented["lesions/tumour"] == 0 and invented["false_lesions/tumour"] == 1
    assert math.isnan(invented["lesion_sensitivity/tumour"]) and both_empty["false_lesions/tumour"] == 0
    # Over all classes: the mean of those that are there, infinite as soon as one is missed.
    assert both_empty["hd95_mm"] == 0 and missed["hd95_mm"] == math.inf
    assert (both_empty["dice"], missed["dice"]) == (1, 0.5)


def test_a_missed_class_is_never_averaged_away():
    made = segeval.Tally(LABELS)
    for number, pair in enumerate([(1, 1), (1, 1), (1, 0), (0, 0)]):
        one = scored(*masks(*pair))
        made.add(segeval.CaseScores(str(number), str(number), one.slices, one.voxel_ml, one.more, one.lesions))
    found = made.estimates()["hd95_mm/tumour"]
    assert (found.n, found.missed, found.value, found.statistic, found.mean_of_found) == (3, 1, 1.0, "median", 1.0)
    assert "hd95_mm/tumour" not in made.means()
    (size,) = made.lesions()["tumour"]
    assert (size.lesions, size.detected, size.false_per_scan) == (3, 0, 0.5)


def test_slices_are_across_the_axis():
    pair = np.random.default_rng(0).integers(0, 3, (2, 3, 4, 5))
    for axis, count in enumerate((3, 4, 5)):
        assert len(scored(*pair, axis=axis).slices) == count


def test_rows_are_plain_for_json():
    text = json.dumps(segeval.plain([row_of(1, 0), row_of(0, 0)]), allow_nan=False)
    missed, none = json.loads(text)
    assert missed["hd95_mm/tumour"] == "inf" and none["hd95_mm/tumour"] is None


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_renaming_the_classes_renames_their_scores(seed):
    rng = np.random.default_rng(seed)
    pair = rng.integers(0, 3, (2, 4, 5, 6)).astype(np.uint8)
    turned = np.array([0, 2, 1], np.uint8)[pair]
    one, other = scored(*pair), scored(*turned)
    assert one.more["hd95_mm/edema"] == other.more["hd95_mm/tumour"]
    assert one.more["false_lesions/tumour"] == other.more["false_lesions/edema"]
    np.testing.assert_array_equal(one.slices[:, 1, 2], other.slices[:, 2, 1])


def test_wrong_masks_are_refused():
    with pytest.raises(InputError, match="with 3 classes they must be 0 to 2"):
        scored(np.full((2, 2, 2), 3), np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="the shapes must be the same"):
        scored(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))
    with pytest.raises(InputError, match="there are no voxels to compare"):
        scored(np.zeros((0, 2, 2)), np.zeros((0, 2, 2)))
    with pytest.raises(InputError, match="labels must be whole numbers"):
        segeval.score_case("a", "a", np.full((2, 2, 2), 0.5), np.zeros((2, 2, 2)), LABELS, (1, 1, 1))


def test_what_is_kept_of_a_scan_is_a_row_of_numbers():
    labels = {value: f"class {value}" for value in range(10)}
    slices = np.random.default_rng(0).integers(0, 50, (155, 10, 10))
    made = segeval.Tally(labels)

    def add(count):
        for number in range(count):
            made.add(segeval.CaseScores(str(number), str(number), slices + number, 0.001))

    add(3)
    tracemalloc.start()
    try:
        add(50)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 50 * slices.nbytes / 5  # 124 kB of matrices a scan, a row of a tenth of that
