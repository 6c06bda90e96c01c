import itertools

import numpy as np
import pytest

from r2d2.data.baselines import best_thresholds, template_labels
from r2d2.data.sources import icbm152


def dice(reference, prediction, label):
    a, b = reference == label, prediction == label
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scored", [(1, 2, 3), (1, 2)])
def test_best_thresholds_are_as_good_as_every_threshold_tried(seed, scored):
    rng = np.random.default_rng(seed)
    reference = rng.permutation(np.repeat([0, 3, 1, 2], [6, 5, 8, 7]))
    image = np.array([0, 6, 8, 3])[reference] + rng.integers(0, 5, reference.size)
    # In the order of mean intensity: 0, 3, 1, 2.
    best = max(
        np.mean(
            [dice(reference, np.array([0, 3, 1, 2])[np.searchsorted(cuts, image, side="right")], k) for k in scored]
        )
        for cuts in itertools.combinations_with_replacement(range(14), 3)
    )
    found = best_thresholds(image, reference, scored)
    assert np.mean([dice(reference, found, k) for k in scored]) == pytest.approx(best)


def test_thresholds_of_separate_intensities_find_the_reference_itself():
    reference = np.array([[0, 1, 2], [2, 3, 0]], np.uint8)
    image = np.array([[0, 50, 90], [91, 20, 0]], np.int16)
    assert best_thresholds(image, reference).tolist() == reference.tolist()


def test_more_than_256_intensities_are_cut_where_the_voxels_are():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 3, 20000)
    image = np.where(reference > 0, 500 + 300 * reference + rng.normal(0, 20, reference.size), 0)
    image[0] = 1e6
    assert (best_thresholds(image, reference) == reference).mean() > 0.99


def test_the_template_labels_follow_the_grid():
    template = icbm152()
    full = template_labels(template.affine, template.t1.shape)
    assert full.dtype == np.uint8
    assert ((full > 0) == template.brain).all()
    half = template_labels(template.affine @ np.diag([2, 2, 2, 1]), (99, 117, 95))
    assert (half == full[::2, ::2, ::2]).all()
