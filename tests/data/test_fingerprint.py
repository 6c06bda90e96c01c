import numpy as np
import pytest

from r2d2.data.check import CaseSummary
from r2d2.data.fingerprint import SAMPLES, class_weights, fingerprint, sample_intensities
from r2d2.errors import InputError

LABELS = {0: "background", 1: "lesion"}


def summary(case, voxels, spacing_mm=(3.0, 2.0, 0.5), shape=(4, 5, 6), intensities=None):
    return CaseSummary(
        case=case,
        shape=shape,
        spacing_mm=spacing_mm,
        canonical_shape=shape,
        canonical_spacing_mm=spacing_mm,
        channels=1,
        voxels=voxels,
        files=("", ""),
        content=case,
        intensities=intensities or {},
    )


def test_samples_are_of_the_class_and_of_every_channel():
    data = np.zeros((4, 5, 6, 2), np.float32, order="F")
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, 3] = 1
    data[1, 2, 3] = (7, 8)
    data[0, 0, 0, 1] = 5
    found = sample_intensities(data, labels, (0, 1))
    assert found[1] == [[7.0], [8.0]]
    assert found[-1] == [[0.0, 7.0], [5.0, 8.0]]  # in the order of the file
    assert len(found[0][0]) == 119


def test_samples_do_not_depend_on_the_memory_order():
    rng = np.random.default_rng(0)
    data, labels = rng.normal(size=(9, 8, 7)).astype(np.float32), rng.integers(0, 2, (9, 8, 7)).astype(np.uint8)
    expected = sample_intensities(data, labels, (0, 1))
    assert sample_intensities(np.asfortranarray(data), labels, (0, 1)) == expected
    assert sample_intensities(data, np.asfortranarray(labels), (0, 1)) == expected


def test_a_large_class_is_sampled_over_all_of_it():
    data = np.arange(100 * 100 * 3, dtype=np.float32).reshape(100, 100, 3)
    (found,) = sample_intensities(data, np.ones((100, 100, 3), np.uint8), (1,))[1]
    assert len(found) == SAMPLES
    assert np.percentile(found, [10, 50, 90]) == pytest.approx([3000, 15000, 27000], rel=0.1)


def test_volumes_are_those_of_the_cases_that_have_the_class():
    found = fingerprint(
        [summary("a", {0: 119, 1: 1}), summary("b", {0: 120, 1: 0}), summary("c", {0: 111, 1: 9})], LABELS, ["T1"]
    )
    assert found.classes["lesion"]["cases"] == 2 and found.classes["lesion"]["voxels"] == 10
    assert found.classes["lesion"]["volume_ml"] == pytest.approx({"min": 0.003, "median": 0.015, "max": 0.027})
    assert fingerprint([summary("a", {0: 120, 1: 0})], LABELS, ["T1"]).classes["lesion"]["volume_ml"] is None


def test_spacings_and_shapes_range_over_the_cases():
    spacings = [(3.0, 1, 1), (1.0, 1, 5), (2.0, 4, 1)]
    found = fingerprint([summary(str(mm), {0: 1, 1: 0}, mm) for mm in spacings], LABELS, ["T1"])
    assert found.spacing_mm == {"min": (1, 1, 1), "median": (2, 1, 1), "max": (3, 4, 5)}
    assert found.shape == {"min": (4, 5, 6), "median": (4, 5, 6), "max": (4, 5, 6)}


def test_intensities_are_pooled_over_the_cases():
    cases = [
        summary("a", {0: 1, 1: 1}, intensities={-1: [[1.0, 2.0]], 0: [[1.0]], 1: [[2.0]]}),
        summary("b", {0: 1, 1: 0}, intensities={-1: [[3.0]], 0: [[3.0, 0.0]], 1: [[]]}),
    ]
    found = fingerprint(cases, LABELS, ["T1"]).intensities["T1"]
    assert found["all"]["mean"] == 2 and found["all"]["p50"] == 2
    assert found["all"]["deviation"] == pytest.approx(np.std([1, 2, 3]))
    assert found["lesion"] == pytest.approx(
        {"mean": 2, "deviation": 0, "p0.5": 2, "p5": 2, "p50": 2, "p95": 2, "p99.5": 2}
    )


def test_no_cases_have_no_fingerprint():
    assert fingerprint([], LABELS, ["T1"]) is None


THREE = {0: "background", 1: "edema", 2: "core"}


def test_class_weights_are_inverse_to_the_pixels_and_1_in_the_mean_over_them():
    weights = class_weights("fingerprint", THREE, (80, 16, 4))
    assert weights == pytest.approx((100 / (3 * 80), 100 / (3 * 16), 100 / (3 * 4)))
    assert (80 * weights[0] + 16 * weights[1] + 4 * weights[2]) / 100 == pytest.approx(1)


def test_a_class_that_occurs_nowhere_has_no_weight_and_takes_none_from_the_others():
    assert class_weights("fingerprint", THREE, (90, 0, 10)) == pytest.approx((100 / (2 * 90), 0.0, 100 / (2 * 10)))


def test_class_weights_that_are_given_are_taken_and_none_are_none():
    assert class_weights("none", THREE) is None
    assert class_weights((1, 2.0, 0.5), THREE) == (1.0, 2.0, 0.5)


def test_class_weights_that_do_not_fit_the_classes_are_refused_with_their_names():
    with pytest.raises(InputError, match=r"2 weights for 3 classes \(background, edema, core\)"):
        class_weights((1.0, 2.0), THREE)


@pytest.mark.parametrize("pixels", [(0, 0, 0), (120, 0, 0)])
def test_class_weights_of_background_alone_are_refused(pixels):
    with pytest.raises(InputError, match="no training image has a class other than the background"):
        class_weights("fingerprint", THREE, pixels)
