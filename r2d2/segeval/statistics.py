"""What can be said of many patients: estimates with intervals, and two models compared on the same patients."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from r2d2.errors import InputError

RESAMPLES, BATCH = 10_000, 1_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """One number for many patients.

    Attributes:
        value: Its mean or median over the patients that have it; a median counts a miss as infinitely far.
        low: Lower end of the 95 % interval of that by resampling patients; NaN with fewer than two patients.
        high: Its upper end.
        n: How many patients have the number.
        missed: For how many of these it is infinite.
        statistic: Which of the two `value` is.
        mean_of_found: The mean without what was missed.
    """

    value: float
    low: float
    high: float
    n: int
    missed: int
    statistic: Literal["mean", "median"]
    mean_of_found: float


def estimate(values: np.ndarray, statistic: Literal["mean", "median"] = "mean") -> Estimate:
    """Sum up one number of many patients.

    Args:
        values: (patients,), NaN for those that do not have it, infinite for those whose class was missed.
        statistic: What to report.

    Returns:
        The estimate; NaN throughout if nobody has the number. The interval is the bootstrap's, with bias and skewness
        corrected (BCa; Efron 1987) for means, by percentiles for medians.
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    found = known[np.isfinite(known)]
    of = np.mean if statistic == "mean" else np.median
    value = float(of(known)) if known.size else float("nan")
    low, high = _interval(known, statistic)
    mean_of_found = float(found.mean()) if found.size else float("nan")
    return Estimate(value, low, high, known.size, known.size - found.size, statistic, mean_of_found)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same patients: what the first has more than the second.

    Attributes:
        difference: Mean over the patients of the first's number less the second's.
        low: Lower end of its 95 % interval by resampling patients.
        high: Its upper end.
        p: Of Wilcoxon's signed-rank test, two-sided: how likely such differences are if the models are equally good; 1
            if there is no difference at all.
        n: How many patients were compared.
        left_out: Those who have the number from neither: there was nothing to find, and neither found anything.
        first: The mean of the first's numbers.
        second: The mean of the second's.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    left_out: tuple[str, ...]
    first: float
    second: float


def compare(first: Mapping[str, float], second: Mapping[str, float], perfect: float = 1.0) -> Comparison:
    """Compare two models, patient by patient.

    Args:
        first: One number of each patient, NaN where there is none.
        second: The same number of the same patients from the other model.
        perfect: What a model is given that has no number where the other has one: it rightly found nothing where the
            other invented something.

    Raises:
        InputError: The patients differ, fewer than two have the number, or one is infinite (compare
            distances by a score that is not, such as the surface Dice).
    """
    if first.keys() != second.keys():
        only = sorted(first.keys() ^ second.keys())
        raise InputError(f"a paired comparison needs the same patients on both sides; {only[0]} is on one side only")
    from scipy import stats  # which takes a second, and who only trains needs none of it

    patients = sorted(first)
    pairs = np.array([[first[name], second[name]] for name in patients], np.float64).reshape(-1, 2)
    known = ~np.isnan(pairs).all(axis=1)
    pairs[np.isnan(pairs)] = perfect
    if np.isinf(pairs[known]).any():
        raise InputError("an infinite distance has no difference to another; compare the surface Dice instead")
    if known.sum() < 2:
        raise InputError(f"a paired comparison needs two patients or more with the number; there are {known.sum()}")
    difference = pairs[known, 0] - pairs[known, 1]
    low, high = _interval(difference, "mean")
    # Rounding is no difference.
    difference = np.where(np.abs(difference) < 1e-12, 0.0, difference)
    p = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
    left_out = tuple(name for name, has in zip(patients, known, strict=True) if not has)
    means = pairs[known].mean(axis=0)
    return Comparison(
        float(difference.mean()), low, high, p, int(known.sum()), left_out, float(means[0]), float(means[1])
    )


def _interval(values: np.ndarray, statistic: str) -> tuple[float, float]:
    """The 95 % interval of the mean or the median over patients, by resampling these."""
    if values.size < 2 or not np.isfinite(values).any():
        return float("nan"), float("nan")
    if np.ptp(values) < 1e-12:  # rounding is no spread
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(0)
    if statistic == "median" or np.isinf(values).any():
        medians = [np.median(rng.choice(values, (BATCH, values.size)), axis=1) for _ in range(RESAMPLES // BATCH)]
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(np.concatenate(medians), (tail, 100 - tail), method="nearest")
        return float(low), float(high)
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = stats.bootstrap(
            (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="BCa", batch=BATCH, rng=rng
        ).confidence_interval
    return float(drawn.low), float(drawn.high)
