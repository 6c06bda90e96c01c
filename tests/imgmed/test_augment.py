from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from r2d2.imgmed import augment
from r2d2.imgmed.augment import TABLE_1, Ranges

EVERYTHING = Ranges((-45, 45), (0.8, 1.2), (-0.1, 0.1), ("rows", "columns"), 0.06, 5, (0.7, 1.5), 0.3, (0.01, 0.1))
TURN = Ranges(rotation_degrees=(90, 90))
FLIPS = {"rows": (slice(None, None, -1), slice(None)), "columns": (slice(None), slice(None, None, -1))}


def pair(rows=14, columns=20, channels=2):
    """An image and a mask without any symmetry."""
    rng = np.random.default_rng(5)
    return rng.normal(size=(rows, columns, channels)).astype(np.float32), rng.integers(
        0, 4, (rows, columns), dtype=np.uint8
    )


def applied(ranges, image, mask, index=0):
    return augment.apply(augment.draw(ranges, 1, 2, index, mask.shape), image, mask)


def chosen(ranges, condition, size=(14, 20)):
    """The first draw that meets a condition."""
    return next(d for i in range(100) if condition(d := augment.draw(ranges, 0, 0, i, size)))


@pytest.mark.parametrize("ranges", [Ranges(), replace(EVERYTHING, probability=0.0)])
def test_a_draw_that_does_nothing_leaves_every_bit(ranges):
    image, mask = pair()
    new_image, new_mask = applied(ranges, image, mask)
    np.testing.assert_array_equal(new_image, image)
    np.testing.assert_array_equal(new_mask, mask)


def test_image_and_mask_given_stay_as_they_are():
    image, mask = pair()
    image.flags.writeable = mask.flags.writeable = False
    new_image, new_mask = applied(EVERYTHING, image, mask)
    assert (new_image.dtype, new_mask.dtype) == (np.float32, np.uint8)
    assert (new_image.shape, new_mask.shape) == (image.shape, mask.shape)


def test_a_shift_of_three_pixels_moves_a_pixel_by_three_along_one_axis_towards_larger_indices():
    image, mask = pair(20, 20)
    ranges = Ranges(shift=(3 / 20, 3 / 20))
    for_rows = np.pad(image, ((3, 0), (0, 0), (0, 0)))[:20], np.pad(mask, ((3, 0), (0, 0)))[:20]
    for_columns = np.pad(image, ((0, 0), (3, 0), (0, 0)))[:, :20], np.pad(mask, ((0, 0), (3, 0)))[:, :20]
    seen = set()
    for index in range(12):
        new_image, new_mask = applied(ranges, image, mask, index)
        along = next(
            name for name, (_, m) in {"rows": for_rows, "columns": for_columns}.items() if np.array_equal(new_mask, m)
        )
        np.testing.assert_allclose(new_image, (for_rows if along == "rows" else for_columns)[0], atol=1e-5)
        seen.add(along)
    assert seen == {"rows", "columns"}


def test_a_shift_is_a_fraction_of_the_size_along_its_own_axis():
    draws = [augment.draw(Ranges(shift=(0.1, 0.1)), 0, 0, index, (100, 50)) for index in range(20)]
    # From the result back to the image: 10 of 100 rows up, or 5 of 50 columns left.
    assert {tuple(np.round(draw.matrix[:, 2], 4)) for draw in draws} == {(0.0, -10.0), (-5.0, 0.0)}


def test_a_rotation_by_90_degrees_is_numpys_counter_clockwise():
    image, mask = pair(21, 21)
    new_image, new_mask = applied(TURN, image, mask)
    np.testing.assert_array_equal(new_mask, np.rot90(mask))
    np.testing.assert_allclose(new_image, np.rot90(image), atol=1e-5)


def test_a_rotation_is_about_the_centre_of_an_oblong_image_and_fills_with_0():
    mask = np.zeros((15, 21), np.uint8)
    mask[7, 10], mask[7, 13], mask[7, 18] = 1, 2, 3  # the centre, 3 to its right, 8 to its right
    _, turned = applied(TURN, np.zeros((15, 21, 1), np.float32), mask)
    expected = np.zeros((15, 21), np.uint8)
    expected[7, 10], expected[4, 10] = 1, 2  # what was 8 to the right is above the image now
    np.testing.assert_array_equal(turned, expected)


@pytest.mark.parametrize("pixel_mm", [(1.0, 1.0), (2.5, 0.8), (0.5, 3.0)])
def test_a_rotation_keeps_lengths_and_turns_angles_in_mm(pixel_mm):
    ranges = Ranges(rotation_degrees=(-45, 45))
    to_mm = np.diag(pixel_mm[::-1])  # (column, row)
    for index in range(20):
        draw = augment.draw(ranges, 0, 0, index, (40, 64), pixel_mm)
        square = augment.draw(ranges, 0, 0, index, (40, 64))
        in_mm = to_mm @ draw.matrix[:, :2] @ np.linalg.inv(to_mm)
        np.testing.assert_allclose(in_mm, square.matrix[:, :2], atol=1e-6)  # that of square pixels
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(2), atol=1e-6)
        np.testing.assert_allclose(draw.matrix @ (31.5, 19.5, 1), (31.5, 19.5), atol=1e-4)  # the centre stays


def test_a_quarter_turn_of_pixels_twice_as_high_as_wide_halves_columns_and_doubles_rows():
    mask = np.zeros((21, 21), np.uint8)
    mask[10, 14], mask[8, 10] = 1, 2  # 4 columns right, 2 rows up: 4 mm each
    draw = augment.draw(TURN, 0, 0, 0, (21, 21), (2.0, 1.0))
    _, turned = augment.apply(draw, np.zeros((21, 21, 1), np.float32), mask)
    assert turned[8, 10] == 1 and turned[10, 6] == 2  # 2 rows up, 4 columns left


def test_a_zoom_of_two_doubles_lengths_and_a_zoom_of_a_half_halves_them():
    mask = np.zeros((32, 40), np.uint8)
    mask[10:14, 16:26] = 1
    blank = np.zeros((32, 40, 1), np.float32)
    _, doubled = applied(Ranges(zoom=(2, 2)), blank, mask)
    # About the centre (15.5, 19.5): rows 9.5 to 13.5 (edges) become 3.5 to 11.5.
    expected = np.zeros_like(mask)
    expected[4:12, 12:32] = 1
    np.testing.assert_array_equal(doubled, expected)
    _, back = applied(Ranges(zoom=(0.5, 0.5)), blank, doubled)
    np.testing.assert_array_equal(back, mask)


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_a_flip_reverses_its_axis_in_half_of_the_draws_and_is_its_own_inverse(axis):
    image, mask = pair()
    ranges = Ranges(flip=(axis,))
    flips = 0
    for index in range(200):
        draw = augment.draw(ranges, 1, 2, index, mask.shape)
        new_image, new_mask = augment.apply(draw, image, mask)
        back = augment.apply(draw, new_image, new_mask)
        np.testing.assert_array_equal(back[0], image)
        np.testing.assert_array_equal(back[1], mask)
        if flipped := np.array_equal(new_mask, mask[FLIPS[axis]]):
            np.testing.assert_array_equal(new_image, image[FLIPS[axis]])
        else:
            np.testing.assert_array_equal(new_mask, mask)
        flips += flipped
    assert 70 < flips < 130  # 100 expected, standard deviation 7


@pytest.mark.parametrize("ranges", [TABLE_1, Ranges(elastic=0.06)], ids=["table1", "elastic"])
def test_a_bright_square_and_its_mask_still_coincide(ranges):
    mask = np.zeros((60, 72), np.uint8)
    mask[15:35, 20:50] = 3
    image = (mask == 3).astype(np.float32)[..., None]
    for index in range(20):
        new_image, new_mask = applied(ranges, image, mask, index)
        assert set(np.unique(new_mask)) == {0, 3}
        assert (new_mask != mask).any()
        away = ndimage.minimum_filter(new_mask, 3) == ndimage.maximum_filter(new_mask, 3)
        np.testing.assert_array_equal(new_image[..., 0][away], (new_mask == 3)[away])


@pytest.mark.parametrize("ranges", [TABLE_1, Ranges(elastic=0.08, flip=("rows",), zoom=(0.8, 0.9))])
def test_images_are_linear_between_pixels_as_scipys(ranges):
    image, mask = pair(30, 41)
    for index in range(10):
        draw = augment.draw(ranges, 0, 0, index, mask.shape)
        y, x = np.mgrid[:30, :41].astype(float)
        if ranges.elastic:
            dx, dy = augment.smooth_field(draw.elastic.astype(float), mask.shape)
            x, y = x + dx, y + dy
        across, down = np.einsum("ij,jhw->ihw", draw.matrix.astype(float), np.stack([x, y, np.ones_like(x)]))
        expected = ndimage.map_coordinates(image[..., 1], [down, across], order=1, mode="grid-constant")
        np.testing.assert_allclose(augment.apply(draw, image, mask)[0][..., 1], expected, atol=1e-4)


def test_parameters_stay_in_their_ranges_and_fill_them():
    draws = [augment.draw(EVERYTHING, 0, 0, index, (100, 100)) for index in range(500)]
    scales = [1 / np.sqrt(abs(np.linalg.det(draw.matrix[:, :2]))) for draw in draws]
    for values, low, high in (
        (scales, 0.8, 1.2),
        ([draw.gamma for draw in draws], 0.7, 1.5),
        ([draw.noise for draw in draws], 0.01, 0.1),
        (np.concatenate([draw.elastic.ravel() for draw in draws]), -6.0, 6.0),
        (np.concatenate([draw.bias.ravel() for draw in draws]), -0.3, 0.3),
    ):
        margin = 0.02 * (high - low)
        assert low - 1e-5 <= np.min(values) < low + margin and high - margin < np.max(values) <= high + 1e-5
    turns = [draw.matrix for draw in (augment.draw(TABLE_1, 0, 0, index, (512, 512)) for index in range(500))]
    angles = [np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])) for matrix in turns]
    assert -45 <= min(angles) < -43 and 43 < max(angles) <= 45


def test_an_elastic_displacement_is_a_fraction_of_the_size_along_its_own_axis():
    points = np.stack([augment.draw(Ranges(elastic=0.1), 0, 0, index, (100, 50)).elastic for index in range(50)])
    largest = np.abs(points).max(axis=(0, 2, 3))  # along columns, along rows
    assert 4.9 < largest[0] <= 5 and 9.8 < largest[1] <= 10


def test_the_probability_is_that_of_being_augmented_at_all():
    ranges = Ranges(rotation_degrees=(10, 20), probability=0.25)
    still = [np.array_equal(augment.draw(ranges, 0, 0, i, (8, 8)).matrix, np.eye(2, 3)) for i in range(400)]
    assert 260 < sum(still) < 340  # 300 expected, standard deviation 9


def test_a_draw_depends_on_seed_epoch_and_index_alone():
    draws = {key: augment.draw(EVERYTHING, *key, (30, 40)) for key in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0))}
    again = augment.draw(EVERYTHING, 1, 2, 3, (30, 40))
    first = draws.pop((1, 2, 3))
    for name in ("matrix", "elastic", "gamma", "bias", "noise"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
        assert all(np.any(getattr(other, name) != getattr(first, name)) for other in draws.values())
    np.testing.assert_array_equal(augment.noise(again, 2), augment.noise(first, 2))
    assert all((augment.noise(other, 2) != augment.noise(first, 2)).all() for other in draws.values())


def test_one_operation_more_changes_no_other():
    few, more = Ranges(rotation_degrees=(-45, 45), noise=(0, 1)), EVERYTHING
    a, b = augment.draw(few, 0, 0, 7, (30, 40)), augment.draw(more, 0, 0, 7, (30, 40))
    np.testing.assert_allclose(b.noise, 0.01 + 0.09 * a.noise)
    angle = [np.arctan2(matrix[0, 1], matrix[0, 0]) for matrix in (a.matrix, b.matrix)]
    assert np.isclose(np.sin(angle[0]), np.sin(angle[1]) * (1 if b.matrix[0, 0] > 0 else -1), atol=1e-6)


def test_gamma_is_a_power_between_the_least_and_the_largest_intensity_of_each_channel():
    image = np.array([[[-2.0, 10.0], [0.0, 30.0], [2.0, 20.0]]], np.float32)
    new, _ = applied(Ranges(gamma=(2, 2)), image, np.zeros((1, 3), np.uint8))
    np.testing.assert_allclose(new, [[[-2.0, 10.0], [-1.0, 30.0], [2.0, 15.0]]])


def test_a_constant_image_stays_constant_under_gamma_and_bias():
    image = np.full((6, 7, 1), 3.0, np.float32)
    new, _ = applied(Ranges(gamma=(0.5, 0.5), bias=0.3), image, np.zeros((6, 7), np.uint8))
    np.testing.assert_array_equal(new, image)


def test_the_bias_field_is_smooth_and_within_its_bounds():
    image = np.ones((50, 60, 1), np.float32)
    image[0, 0] = 0  # the least intensity, from which the factor counts
    for index in range(20):
        field = applied(Ranges(bias=0.3), image, np.zeros((50, 60), np.uint8), index)[0][..., 0]
        assert field[0, 0] == 0
        field[0, 0] = field[0, 1]
        assert np.exp(-0.3) <= field.min() < field.max() <= np.exp(0.3)
        assert np.abs(np.diff(field, axis=0)).max() < 0.04 and np.abs(np.diff(field, axis=1)).max() < 0.04


def test_noise_has_its_deviation_and_no_mean():
    new, mask = applied(Ranges(noise=(0.5, 0.5)), np.zeros((200, 200, 2), np.float32), np.ones((200, 200), np.uint8))
    assert abs(new.mean()) < 0.01 and abs(new.std() - 0.5) < 0.01
    assert abs(np.corrcoef(new[..., 0].ravel(), new[..., 1].ravel())[0, 1]) < 0.03
    assert (mask == 1).all()


def test_splines_are_weights_that_reproduce_a_straight_line():
    weights = augment.splines(24, 4)
    assert weights.shape == (24, 7) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    # A cell is 6 pixels; control points lie at -6, 0, 6, ... from the image's left edge.
    np.testing.assert_allclose(weights @ (6.0 * np.arange(-1, 6)), np.arange(24) + 0.5, atol=1e-5)


def test_the_largest_elastic_deformation_does_not_fold():
    for index in range(200):
        draw = augment.draw(Ranges(elastic=0.1199), 0, 0, index, (64, 64))
        dx, dy = augment.smooth_field(np.sign(draw.elastic) * 0.1199 * 64, (64, 64))
        (dx_dy, dx_dx), (dy_dy, dy_dx) = np.gradient(dx), np.gradient(dy)
        assert ((1 + dx_dx) * (1 + dy_dy) - dx_dy * dy_dx).min() > 0


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"rotation_degrees": (45, -45)}, r"rotation_degrees: its least value \(45\) must be <= its largest \(-45\)"),
        ({"zoom": (0, 1)}, "zoom and gamma must be > 0"),
        ({"gamma": (-1, 1)}, "zoom and gamma must be > 0"),
        ({"noise": (-1, 1)}, "noise and bias >= 0"),
        ({"shift": (float("nan"), 1)}, "shift"),
        ({"flip": ("depth",)}, "rows and columns"),
        ({"elastic": 0.12}, "0.48 / elastic_cells"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(values, rule):
    with pytest.raises(ValueError, match=rule):
        Ranges(**values)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_an_image_of_a_single_row_or_column_is_augmented(size):
    image, mask = np.ones((*size, 1), np.float32), np.ones(size, np.uint8)
    new_image, new_mask = applied(EVERYTHING, image, mask)
    assert np.isfinite(new_image).all() and set(np.unique(new_mask)) <= {0, 1}
