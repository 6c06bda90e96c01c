import math

import numpy as np
import pytest
from scipy import stats

from r2d2 import segeval
from r2d2.errors import InputError

NAN, INF = math.nan, math.inf


def test_an_estimate_is_over_those_who_have_the_number():
    found = segeval.estimate(np.array([0.5, NAN, 0.7, 0.9]))
    assert (found.value, found.n, found.missed, found.statistic) == (pytest.approx(0.7), 3, 0, "mean")
    assert found.low < 0.7 < found.high and found.low >= 0.5 and found.high <= 0.9 + 1e-12


def test_a_median_counts_what_was_missed_as_infinitely_far():
    found = segeval.estimate(np.array([1.0, 2.0, INF]), "median")
    assert (found.value, found.n, found.missed) == (2.0, 3, 1) and found.mean_of_found == 1.5
    assert found.low == 1.0 and found.high == INF
    assert segeval.estimate(np.array([1.0, INF, INF]), "median").value == INF
    assert segeval.estimate(np.array([1.0, INF]), "mean").value == INF


@pytest.mark.parametrize("values", [[], [NAN, NAN]])
def test_nobody_has_it(values):
    found = segeval.estimate(np.array(values))
    assert found.n == 0 and all(math.isnan(value) for value in (found.value, found.low, found.high))


def test_one_patient_has_no_interval_and_equal_ones_a_point():
    assert math.isnan(segeval.estimate(np.array([0.5])).low)
    same = segeval.estimate(np.array([0.5, 0.5, 0.5]))
    assert (same.low, same.high) == (0.5, 0.5)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    draws = [rng.beta(8, 2, 25) for _ in range(200)]
    covered = [one.low <= 0.8 <= one.high for one in map(segeval.estimate, draws)]
    assert 0.89 <= np.mean(covered) <= 0.985


def test_the_same_numbers_give_the_same_interval():
    values = np.random.default_rng(0).random(20)
    assert segeval.estimate(values) == segeval.estimate(values)


def numbers(values):
    return {f"patient {i}": value for i, value in enumerate(values)}


def test_a_comparison_is_paired():
    rng = np.random.default_rng(2)
    hard = rng.uniform(0.2, 0.9, 30)  # patients differ by much more than the models
    better = hard + 0.02 + rng.normal(0, 0.01, 30)
    found = segeval.compare(numbers(better), numbers(hard))
    assert found.difference == pytest.approx(np.mean(better - hard)) and found.n == 30
    assert 0 < found.low < found.difference < found.high < 0.03
    assert found.p == pytest.approx(stats.wilcoxon(better - hard).pvalue) and found.p < 0.001
    back = segeval.compare(numbers(hard), numbers(better))
    assert back.difference == pytest.approx(-found.difference) and back.p == pytest.approx(found.p)
    assert (found.first, found.second) == (pytest.approx(better.mean()), pytest.approx(hard.mean()))


def test_the_order_of_patients_plays_no_part():
    first, second = numbers([0.1, 0.2, 0.4]), numbers([0.2, 0.2, 0.3])
    turned = dict(reversed(second.items()))
    assert segeval.compare(first, turned) == segeval.compare(first, second)


def test_who_lacks_the_number_on_both_sides_is_left_out_and_named():
    found = segeval.compare(numbers([0.5, NAN, 0.7]), numbers([0.4, NAN, 0.7]))
    assert found.n == 2 and found.left_out == ("patient 1",)


def test_who_rightly_finds_nothing_is_better_than_who_invents_something():
    invents, right = numbers([0.8, 0.0, 0.0, 0.9]), numbers([0.8, NAN, NAN, 0.9])
    found = segeval.compare(invents, right)
    assert (found.difference, found.n, found.left_out) == (-0.5, 4, ())
    assert segeval.compare(right, invents, perfect=0.6).difference == pytest.approx(0.3)


def test_no_difference_is_no_evidence():
    found = segeval.compare(numbers([0.5, 0.6, 0.7]), numbers([0.5, 0.6, 0.7]))
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match=r"the same patients on both sides; b is on one side only"):
        segeval.compare({"a": 1.0, "b": 1.0}, {"a": 1.0})
    with pytest.raises(InputError, match=r"two patients or more with the number; there are 1"):
        segeval.compare({"a": 1.0, "b": NAN}, {"a": 1.0, "b": NAN})
    with pytest.raises(InputError, match="surface Dice instead"):
        segeval.compare({"a": 1.0, "b": INF}, {"a": 1.0, "b": 1.0})
