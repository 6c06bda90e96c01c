import itertools
import json
import re

import nibabel
import numpy as np
import pytest

from r2d2 import __version__
from r2d2.data.baselines import best_thresholds, template_labels
from r2d2.data.synthesis import KINDS, atrium, brain, brats, dataset, patient, synthesize
from r2d2.data.synthesis.deform import Grid, jacobian_determinant, random_field, refine, sample, swell
from r2d2.errors import InputError

SPACING_MM = 3.0


def dice(reference, prediction, label):
    a, b = reference == label, prediction == label
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def mean_dice(reference, prediction, labels=(1, 2)):
    return np.mean([dice(reference, prediction, label) for label in labels])


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


@pytest.fixture(scope="module")
def brains():
    """Five patients each of two seeds."""
    return [patient("brain", seed, index, SPACING_MM) for seed in (0, 7) for index in range(5)]


@pytest.fixture(scope="module")
def brats_folder(tmp_path_factory):
    return synthesize("brats", tmp_path_factory.mktemp("data") / "brats", 3, seed=1, spacing_mm=SPACING_MM, workers=1)


def test_no_two_patients_overlap_by_more_than_three_quarters(brains):
    for (_, one), (_, other) in itertools.combinations(brains, 2):
        assert mean_dice(one, other) <= 0.75
        assert mean_dice(one, other, (1, 2, 3)) <= 0.75


def test_the_template_itself_is_a_bad_answer(brains):
    answer = template_labels(brain.grid(SPACING_MM).affine, brain.grid(SPACING_MM).shape)
    scores = [mean_dice(labels, answer) for _, labels in brains]
    assert np.mean(scores) <= 0.70
    assert max(scores) <= 0.75


def test_the_best_thresholds_are_not_good_enough(brains):
    scores = [mean_dice(labels, best_thresholds(image, labels, (1, 2))) for image, labels in brains]
    assert np.mean(scores) <= 0.78


def test_brains_have_the_size_of_brains_and_their_three_labels(brains):
    for image, labels in brains:
        assert image.dtype == np.int16
        assert labels.dtype == np.uint8
        assert np.unique(labels).tolist() == [0, 1, 2, 3]
        assert 1200 < (labels > 0).sum() * SPACING_MM**3 / 1000 < 2600  # millilitres
        assert ((image == 0) == (labels == 0)).all()


def test_white_matter_is_brighter_than_grey_and_grey_than_fluid_in_every_t1(brains):
    for image, labels in brains:
        other, grey, white = (image[labels == label].mean() for label in (3, 1, 2))
        assert other < grey < white


@pytest.mark.parametrize("seed", range(3))
def test_deformations_do_not_fold(seed):
    target, control = brain.grid(2.0), brain.grid().around(brain.CONTROL_MM)
    points = brain.deformation(generator(seed), control)
    assert jacobian_determinant(points, control).min() > 0
    fine = refine(points - control.points_mm(), control, target) + target.points_mm()
    assert jacobian_determinant(fine, target).min() > 0


def test_the_jacobian_determinant_of_a_scaling_is_its_volume_and_of_a_mirror_negative():
    grid = Grid((4, 5, 6), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0))
    scaled = grid.points_mm() * np.array([2, 3, 0.5], np.float32).reshape(3, 1, 1, 1)
    assert jacobian_determinant(scaled, grid) == pytest.approx(np.full(grid.shape, 3.0))
    mirrored = grid.points_mm() * np.array([-1, 1, 1], np.float32).reshape(3, 1, 1, 1)
    assert jacobian_determinant(mirrored, grid) == pytest.approx(np.full(grid.shape, -1.0))


def test_growth_enlarges_the_middle_without_folds_and_leaves_what_is_far():
    grid = Grid((41, 41, 41), (2.0, 2.0, 2.0), (-40.0, -40.0, -40.0))
    points = swell(grid.points_mm(), np.zeros(3), np.full(3, 8.0), 0.5)
    determinant = jacobian_determinant(points, grid)
    assert determinant.min() > 0
    # A pull-back that looks at half the distance shows the tissue at twice its size.
    assert points[0, 21, 20, 20] == pytest.approx(1.0, abs=0.05)
    assert points[:, 0, 0, 0] == pytest.approx([-40, -40, -40])


def test_refining_agrees_with_sampling_at_the_same_points():
    coarse = Grid((5, 6, 7), (4.0, 4.0, 4.0), (-3.0, 2.0, 1.0))
    fine = Grid((9, 10, 11), (1.5, 1.7, 2.0), (-2.0, 3.0, 1.5))
    maps = random_field(generator(), coarse, 6.0, components=2)
    assert refine(maps, coarse, fine) == pytest.approx(sample(maps, coarse, fine.points_mm()), abs=1e-5)


def test_random_fields_have_mean_0_and_deviation_1():
    field = random_field(generator(), Grid((20, 20, 20), (5.0,) * 3, (0.0,) * 3), 12.0, components=2)
    assert field.shape == (2, 20, 20, 20)
    assert field.mean(axis=(1, 2, 3)) == pytest.approx([0, 0], abs=1e-5)
    assert field.std(axis=(1, 2, 3)) == pytest.approx([1, 1], abs=1e-5)


def test_a_patient_has_the_same_shape_at_another_spacing():
    _, coarse = patient("brain", 3, 0, 4.0)
    _, fine = patient("brain", 3, 0, 2.0)
    assert mean_dice(fine[::2, ::2, ::2], coarse[:50, :59, :48]) > 0.85


def voxels(folder):
    return [np.asarray(nibabel.load(path).dataobj) for path in sorted(folder.glob("*Tr/*.nii.gz"))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_patient_depends_on_seed_and_index_alone(kind, tmp_path):
    two = synthesize(kind, tmp_path / "two", 2, seed=5, spacing_mm=8.0, workers=1)
    first, second = patient(kind, 5, 0, 8.0), patient(kind, 5, 1, 8.0)
    for written, made in zip(voxels(two), (first[0], second[0], first[1], second[1]), strict=True):
        assert written.tobytes() == made.tobytes()
    assert (patient(kind, 6, 0, 8.0)[1] != first[1]).any()
    assert (second[1] != first[1]).any()


def test_the_number_of_workers_changes_nothing(tmp_path):
    told = []
    alone = synthesize("brain", tmp_path / "alone", 2, seed=5, spacing_mm=8.0, workers=1)
    together = synthesize("brain", tmp_path / "together", 3, 5, 8.0, workers=2, progress=lambda: told.append(1))
    assert len(told) == 3
    for name in ("imagesTr/brain_001", "imagesTr/brain_002", "labelsTr/brain_001", "labelsTr/brain_002"):
        one, other = (nibabel.load(folder / f"{name}.nii.gz") for folder in (alone, together))
        assert np.asarray(one.dataobj).tobytes() == np.asarray(other.dataobj).tobytes()


def test_the_folder_is_in_decathlon_layout(brats_folder):
    description = json.loads((brats_folder / "dataset.json").read_text())
    assert description["labels"] == {
        "0": "background",
        "1": "edema",
        "2": "non-enhancing tumor",
        "3": "enhancing tumour",
    }
    assert description["modality"] == {"0": "FLAIR", "1": "T1w", "2": "T1gd", "3": "T2w"}
    assert description["numTraining"] == 3
    assert description["training"][2] == {
        "image": "./imagesTr/brats_003.nii.gz",
        "label": "./labelsTr/brats_003.nii.gz",
    }
    assert "virtual patients" in description["description"]
    assert "no clinical evidence" in description["description"]
    assert "McConnell" in description["licence"]
    assert description["generator"]["seed"] == 1
    assert description["generator"]["r2d2"] == __version__
    assert description["generator"]["settings"]["brats"]["edema_radius_mm"]
    for case in description["training"]:
        image, labels = (nibabel.load(brats_folder / case[part]) for part in ("image", "label"))
        assert image.get_data_dtype() == np.int16
        assert labels.get_data_dtype() == np.uint8
        assert image.shape == (80, 80, 52, 4)
        assert labels.shape == (80, 80, 52)
        assert (image.affine == labels.affine).all()
        assert np.diag(image.affine)[:3] == pytest.approx([3, 3, 3])


def test_nothing_but_the_folder_is_left(brats_folder):
    assert [path.name for path in brats_folder.parent.iterdir()] == ["brats"]
    assert sorted(path.name for path in brats_folder.iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]


def test_scans_have_the_decathlons_sizes_by_default():
    assert brats.grid().shape == (240, 240, 155)
    assert brats.grid().spacing_mm == (1, 1, 1)
    assert atrium.grid().shape == (320, 320, 110)
    assert atrium.grid().spacing_mm == pytest.approx((1.25, 1.25, 1.37))
    assert brain.grid().shape == (197, 233, 189)


def test_tumours_are_nested_and_have_all_their_parts():
    for index in range(4):
        image, labels = patient("brats", 0, index, 2.0)
        assert np.unique(labels).tolist() == [0, 1, 2, 3]
        assert (image[labels > 0] > 0).all()
        edema, core, enhancing = (np.argwhere(part) for part in (labels > 0, labels > 1, labels == 3))
        assert (edema.min(axis=0) <= core.min(axis=0)).all()
        assert (edema.max(axis=0) >= core.max(axis=0)).all()
        # The rim lies around the non-enhancing middle.
        middle = np.argwhere(labels == 2).mean(axis=0)
        inner, outer = np.argwhere(labels == 2), enhancing
        assert np.linalg.norm(inner - middle, axis=1).mean() < np.linalg.norm(outer - middle, axis=1).mean()


def test_every_drawn_brain_has_room_for_the_largest_tumour():
    control = brats.grid().around(brain.CONTROL_MM)
    for seed in range(8):
        middle = brats._middle(generator(seed), brain.deformation(generator(seed), control), control, 36.0)
        assert (np.abs(middle - brain.BRAIN_MIDDLE_MM) < 80).all()


def test_tumours_are_small_and_large():
    millilitres = [(patient("brats", 0, index, 4.0)[1] > 0).sum() * 0.064 for index in range(8)]
    assert min(millilitres) < 20
    assert max(millilitres) > 60


def test_each_modality_shows_tissue_and_tumour_its_own_way():
    image, labels = patient("brats", 0, 2, 2.0)
    healthy = (image[..., 0] > 0) & (labels == 0)
    flair, t1, t1gd, t2 = ([image[part, channel].mean() for part in (healthy, *(labels == k for k in (1, 2, 3)))]
                           for channel in range(4))  # fmt: skip
    assert flair[1] > 1.3 * flair[0]
    assert t2[1] > 1.3 * t2[0]
    assert t1[1] < t1[0]
    assert t1gd[3] > 1.2 * t1gd[0]
    assert t1gd[3] > 1.5 * t1gd[2]


def test_atria_have_the_volume_of_atria():
    spacing_mm = 4.0
    voxel_ml = np.prod(atrium.grid(spacing_mm).spacing_mm) / 1000
    millilitres = [patient("atrium", 0, index, spacing_mm)[1].sum() * voxel_ml for index in range(8)]
    assert min(millilitres) > 40
    assert max(millilitres) < 130
    assert max(millilitres) > 1.3 * min(millilitres)


def test_other_blood_is_as_bright_as_the_atrium():
    image, labels = patient("atrium", 0, 0, 4.0)
    bright = image > 0.8 * np.median(image[labels == 1])
    assert dice(labels == 1, bright, True) < 0.6


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        synthesize("brain", tmp_path, 1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    assert synthesize("atrium", folder, 1, seed=0, spacing_mm=8.0) == folder
    assert len(list(folder.glob("*Tr/*.nii.gz"))) == 2


def test_nothing_is_left_after_a_failure(tmp_path, monkeypatch):
    def fail(volume, path):
        raise OSError("disk full")

    monkeypatch.setattr(dataset, "write_volume", fail)
    with pytest.raises(InputError, match="disk full"):
        synthesize("brain", tmp_path / "brain", 2, seed=0, spacing_mm=8.0, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_pool_leaves_nothing(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize("atrium", tmp_path / "atrium", 4, seed=0, spacing_mm=8.0, workers=2, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "liver"}, "'liver'; there are brain, brats, atrium"),
        ({"patients": 0}, r"patients \(0\) must be >= 1"),
        ({"seed": -1}, r"seed \(-1\) must be >= 0"),
        ({"spacing_mm": 20.0}, r"spacing_mm \(20\) must be from 0.5 to 8"),
        ({"workers": 0}, r"workers \(0\) must be >= 1"),
    ],
)
def test_numbers_out_of_range_are_input_errors(change, message, tmp_path):
    arguments = {"kind": "brain", "folder": tmp_path / "x", "patients": 1, "seed": 0} | change
    with pytest.raises(InputError, match=message):
        synthesize(**arguments)
