import numpy as np
import pytest

from r2d2 import imgmed

RNG = np.random.default_rng(0)


def scan(order="C"):
    data = RNG.normal((1000, 5), (200, 0.1), (30, 31, 32, 2)).astype(np.float32)
    data[:10] = 0
    return np.asarray(data, order=order)


@pytest.mark.parametrize("order", ["C", "F"])
def test_zscore_has_mean_0_and_deviation_1_inside_and_0_outside(order):
    data = scan(order)
    result = imgmed.normalize(data, "zscore")
    assert result.dtype == np.float32
    for c in range(2):
        inside = result[10:, ..., c].astype(np.float64)
        assert inside.mean() == pytest.approx(0, abs=1e-4)
        assert inside.std() == pytest.approx(1, abs=1e-4)
    assert (result[:10] == 0).all()


def test_zscore_by_hand():
    data = np.array([0, 0, 2, 4], np.float32).reshape(2, 2, 1, 1)
    np.testing.assert_allclose(imgmed.normalize(data, "zscore").ravel(), [0, 0, -1, 1], atol=1e-6)


def test_zscore_of_reversed_views_is_the_same():
    data = scan()
    np.testing.assert_allclose(
        imgmed.normalize(data[::-1].transpose(1, 0, 2, 3), "zscore"),
        imgmed.normalize(data, "zscore")[::-1].transpose(1, 0, 2, 3),
        atol=1e-6,
    )


def test_percentile_maps_the_percentiles_of_the_inside_to_0_and_1():
    data = scan()
    result = imgmed.normalize(data, "percentile")
    for c in range(2):
        low, high = np.percentile(data[10:, ..., c], [0.5, 99.5])
        expected = np.clip((data[..., c] - low) / (high - low), 0, 1)
        np.testing.assert_allclose(result[..., c], expected, atol=1e-4)
    assert result.min() == 0 and result.max() == 1 and (result[:10] == 0).all()


def test_percentiles_of_large_scans_come_from_a_sample():
    data = RNG.uniform(0, 1000, (200, 200, 100, 1)).astype(np.float32)
    result = imgmed.normalize(data, "percentile")
    np.testing.assert_allclose(result, np.clip((data - 5) / 990, 0, 1), atol=2e-3)


def test_none_changes_nothing():
    data = scan()
    assert imgmed.normalize(data, "none") is data


@pytest.mark.parametrize("how", ["zscore", "percentile"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1024.0, 123456.7])
@pytest.mark.parametrize("background", [False, True])
def test_constant_channels_become_0(how, value, background):
    data = np.full((30, 20, 10, 1), value, np.float32)
    if background:
        data[:15] = 0
    assert (imgmed.normalize(data, how) == 0).all()


@pytest.mark.parametrize("how", ["zscore", "percentile"])
def test_the_input_stays_as_it_is(how):
    data = scan()
    before = data.copy()
    imgmed.normalize(data, how)
    np.testing.assert_array_equal(data, before)


def test_an_unknown_normalization_names_the_known():
    with pytest.raises(ValueError, match="zscore, percentile, none"):
        imgmed.normalize(scan(), "minmax")
