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


def ct(order="F"):
    """Air, tissue and water in Hounsfield units: 5 % are exactly 0."""
    data = RNG.normal(-300, 400, (40, 31, 32, 1)).round().astype(np.float32)
    data[:2] = 0
    return np.asarray(data, order=order)


@pytest.mark.parametrize("masked", [False, True])
def test_exact_zeros_of_a_ct_are_water_unless_more_than_a_tenth_of_it_was_masked(masked):
    data = ct()
    if masked:
        data[:5] = 0  # 12.5 %
    inside = data != 0 if masked else np.ones_like(data, bool)
    np.testing.assert_array_equal(imgmed.foreground(data), inside)
    normalized = imgmed.normalize(data, "zscore")
    expected = (data - data[inside].mean(dtype=np.float64)) / data[inside].std(dtype=np.float64)
    np.testing.assert_allclose(normalized, np.where(inside, expected, 0), atol=1e-4)
    low, high = np.percentile(data[inside], [0.5, 99.5])
    expected = np.clip((data - low) / (high - low), 0, 1)
    np.testing.assert_allclose(imgmed.normalize(data, "percentile"), expected, atol=1e-4)
    low, high = np.percentile(data[inside], [10, 60])
    np.testing.assert_allclose(imgmed.clip_percentiles(data, 10, 60), np.clip(data, low, high), atol=1e-3)
    shifted = np.where(inside, data + 5000.5, 0)
    np.testing.assert_allclose(imgmed.match_histogram(data[..., 0], shifted), shifted[..., 0], atol=0.01)
    start, shape = imgmed.foreground_box(data)
    assert start == ((5, 0, 0) if masked else (0, 0, 0)) and shape == ((35 if masked else 40), 31, 32)


def test_without_negative_voxels_even_a_few_zeros_are_background():
    data = np.abs(ct()) + 1
    data[0, :3] = 0
    np.testing.assert_array_equal(imgmed.foreground(data), data != 0)
    assert imgmed.foreground(np.zeros((0, 3))).shape == (0, 3) and not imgmed.foreground(np.zeros((2, 3))).any()


@pytest.mark.parametrize("how", ["zscore", "percentile"])
def test_scans_of_any_type_are_normalized_in_float32(how):
    data = (scan() * 10).round()
    expected = imgmed.normalize(data, how)
    for dtype in (np.int16, np.int32, np.float64):
        normalized = imgmed.normalize(data.astype(dtype), how)
        assert normalized.dtype == np.float32
        np.testing.assert_array_equal(normalized, expected)


@pytest.mark.parametrize("how", ["zscore", "percentile", "window", "none"])
def test_a_scan_without_an_axis_of_channels_is_not_taken_for_one_with_them(how):
    with pytest.raises(ValueError, match=r"\(X, Y, Z, C\), this one has 3 axes"):
        imgmed.normalize(np.ones((4, 5, 6), np.float32), how, (0, 1))


def test_percentiles_of_a_large_scan_do_not_depend_on_its_memory_order_nor_on_a_pattern():
    data = RNG.normal(100, 10, (128, 160, 160, 1)).astype(np.float32)
    data[::2] += 200  # every second voxel of a row, as of interleaved slices
    results = [imgmed.normalize(np.asarray(data, order=order), "percentile") for order in "CF"]
    np.testing.assert_array_equal(*results)
    low, high = np.percentile(data, [0.5, 99.5])
    np.testing.assert_allclose(results[0], np.clip((data - low) / (high - low), 0, 1), atol=2e-3)


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
    with pytest.raises(ValueError, match="zscore, percentile, window, none"):
        imgmed.normalize(scan(), "minmax")


def test_a_lung_window_by_hand():
    data = np.array([-2000, -1000, -300, 400, 3000], np.float32)
    np.testing.assert_allclose(imgmed.apply_window(data, -1000, 400), [0, 0, 0.5, 1, 1], atol=1e-6)
    volume = data.reshape(5, 1, 1, 1)
    np.testing.assert_array_equal(
        imgmed.normalize(volume, "window", (-1000, 400)), imgmed.apply_window(volume, -1000, 400)
    )
    assert data[0] == -2000


def test_whole_numbers_are_windowed_without_overflow():
    assert imgmed.apply_window(np.array([-32768, 32767], np.int16), -32768, 32767).tolist() == [0, 1]


@pytest.mark.parametrize("window", [(1, 1), (2, 1), (np.nan, 1)])
def test_an_empty_window_is_refused(window):
    with pytest.raises(ValueError, match="must be <"):
        imgmed.apply_window(np.zeros(3), *window)


def test_a_window_without_numbers_is_refused():
    with pytest.raises(ValueError, match="needs a window"):
        imgmed.normalize(np.zeros((1, 1, 1, 1), np.float32), "window")


def test_percentiles_are_those_of_the_voxels_that_are_not_zero():
    data = np.concatenate([np.zeros(500), np.arange(1, 102)]).astype(np.float32)
    clipped = imgmed.clip_percentiles(data, 10, 90)
    assert (clipped[data > 0].min(), clipped.max()) == (11, 91)
    assert data.max() == 101
    np.testing.assert_array_equal(imgmed.clip_percentiles(np.zeros(3), 10, 90), np.zeros(3))


def test_n4_takes_out_most_of_a_known_bias_field_and_leaves_zeros():
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 36, 32)), indexing="ij")
    tissue = np.where((x**2 + y**2 + z**2) < 0.9, np.where(x * y > 0, 100.0, 160.0), 0.0)
    field = np.exp(0.4 * x - 0.3 * y + 0.2 * z)
    corrected = imgmed.correct_bias((tissue * field).astype(np.float32), (1.0, 2.0, 1.5), shrink=2)

    def unevenness(scan):
        return np.mean([scan[tissue == value].std() / scan[tissue == value].mean() for value in (100.0, 160.0)])

    assert unevenness(corrected) < 0.25 * unevenness(tissue * field)
    assert (corrected[tissue == 0] == 0).all() and corrected.dtype == np.float32


def test_n4_of_an_empty_scan_is_empty():
    assert not imgmed.correct_bias(np.zeros((8, 8, 8), np.float32), (1, 1, 1)).any()


def test_a_scan_of_another_scanner_gets_the_reference_scans_quantiles():
    reference = RNG.gamma(3.0, 50.0, (20, 21, 22))
    other = 1000 + 4 * RNG.gamma(3.0, 50.0, (18, 17, 16)) ** 1.2
    other[0] = 0
    matched = imgmed.match_histogram(other, reference)
    assert matched.shape == other.shape and not matched[0].any()
    for percent in (0, 5, 25, 50, 75, 95, 100):
        assert np.percentile(matched[1:], percent) == pytest.approx(np.percentile(reference, percent), rel=0.02)
    order = np.argsort(other[1:].ravel(), kind="stable")
    assert (np.diff(matched[1:].ravel()[order]) >= 0).all()


def test_a_scan_matched_to_itself_stays():
    data = RNG.gamma(3.0, 50.0, (9, 8, 7)).astype(np.float32)
    np.testing.assert_allclose(imgmed.match_histogram(data, data), data, rtol=1e-5)


def test_an_empty_scan_has_no_histogram():
    with pytest.raises(ValueError, match="0 throughout"):
        imgmed.match_histogram(np.zeros((2, 2, 2)), np.ones((2, 2, 2)))
