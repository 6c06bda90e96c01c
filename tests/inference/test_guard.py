"""What training scans were like, and in what another scan is unlike them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.saved import experiment, ranges_of

from r2d2 import config, imgmed
from r2d2.data.cases import find_cases
from r2d2.data.prepare import prepare, seen_percentiles, to_images
from r2d2.data.synthesis import synthesize
from r2d2.inference import guard
from r2d2.inference.saved import metadata

PREPROCESS = config.Preprocess(image_size=(48, 56))


@pytest.fixture(scope="module")
def prepared(virtual_patients, tmp_path_factory):
    dataset = find_cases(config.Data(path=virtual_patients))
    return prepare(dataset, PREPROCESS, tmp_path_factory.mktemp("prepared"))


def test_percentiles_are_of_the_foreground_that_the_network_sees():
    images = np.zeros((20, 30, 40, 2), np.float16)
    images[5:15, 10:20, :, 0] = np.linspace(1, 3, 40)
    (low, middle, high), none = seen_percentiles(images)
    assert (low, middle, high) == pytest.approx((1.1, 2.0, 2.9), abs=0.03)
    assert none == (0, 0, 0)


def test_a_large_scan_is_sampled_and_its_percentiles_are_near_those_of_all():
    images = np.random.default_rng(0).standard_normal((100, 200, 200, 1)).astype(np.float16)
    np.testing.assert_allclose(seen_percentiles(images)[0], (-1.645, 0, 1.645), atol=0.02)


def test_ranges_are_of_the_named_cases_and_along_canonical_axes(prepared):
    names = [case.name for case in prepared.cases]
    every, some = (guard.ranges(prepared, which, "axial") for which in (names, names[:2]))
    assert every["spacing_mm"] == [pytest.approx([4, 4])] * 3
    (bounds,) = every["intensities"].values()
    medians = [case.intensities[0][1] for case in prepared.cases]
    assert bounds["p50"] == [min(medians), max(medians)]
    (fewer,) = some["intensities"].values()
    assert fewer["p50"] == [min(medians[:2]), max(medians[:2])] != bounds["p50"]


def test_a_model_is_saved_with_the_ranges_of_its_training_patients_alone(prepared):
    names = [case.name for case in prepared.cases]
    split = {"training": names[:3], "validation": names[3:5], "test": names[5:]}
    known = json.loads(json.dumps(metadata(experiment(image_size=[48, 56]), prepared, split)))["r2d2"]
    assert known["ranges"] == guard.ranges(prepared, names[:3], "axial")
    assert [*known["ranges"]] == ["spacing_mm", "intensities"]
    assert {channel: [*bounds] for channel, bounds in known["ranges"]["intensities"].items()} == {
        name: ["p5", "p50", "p95"] for name in prepared.channels
    }


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
def test_spacing_is_told_along_x_y_z_whatever_the_plane(prepared, plane):
    mm = {"sagittal": (3.0, 1.0, 2.0), "coronal": (1.0, 3.0, 2.0), "axial": (1.0, 2.0, 3.0)}[plane]
    along = (3.0, *(size for axis, size in enumerate(mm) if axis != imgmed.PLANES[plane]))
    changed = replace(prepared, cases=(replace(prepared.cases[0], spacing_mm=along),))
    known = guard.ranges(changed, [prepared.cases[0].name], plane)
    assert known["spacing_mm"] == [[size, size] for size in mm]


def test_inside_the_margin_nothing_is_told_and_beyond_it_number_and_range():
    known = ranges_of((1.0, 1.0, 5.0), (-1.0, 0.0, 1.0), channel="T1")  # spans 2, so that the margin is 0.1
    inside = ((-1.09, 0.09, 1.09),)
    assert guard.outside(known, (0.67, 1.49, 7.4), inside) == []
    assert guard.outside(known, (0.66, 1.0, 7.6), inside) == [
        "spacing left-right 0.66 mm, the training scans' 1 mm",
        "spacing bottom-top 7.6 mm, the training scans' 5 mm",
    ]
    assert guard.outside(known, (1, 1, 5), ((-1.0, 0.11, 1.0),)) == [
        "channel T1: 50 % of its normalized intensities are below 0.11, in the training scans below 0"
    ]


def test_held_out_virtual_patients_are_as_their_models_know_them_and_mistreated_ones_are_not(
    prepared, virtual_patients, tmp_path
):
    known = guard.ranges(prepared, [case.name for case in prepared.cases], "axial")
    others = synthesize("brain", tmp_path / "others", 4, seed=7, spacing_mm=4.0)

    def told(volume):
        canonical = imgmed.to_canonical(volume)
        images, _ = to_images(canonical, PREPROCESS)
        return guard.outside(known, canonical.spacing_mm, seen_percentiles(images))

    paths = sorted((others / "imagesTr").glob("*.nii.gz"))
    assert sum(bool(told(imgmed.read_volume(path))) for path in paths) <= 1
    scan = imgmed.read_volume(paths[0])
    head = np.pad(scan.data, 4)
    grown = np.pad(scan.data > 0, 4)
    shell = grown.copy()
    for axis in range(3):
        for step in (-3, 3):
            shell |= np.roll(grown, step, axis)
    head[shell & ~grown] = 1.5 * scan.data.max()  # fat is brighter than any brain
    mistreated = {
        "dark for bright": scan.data.max() - scan.data,
        "1024 added": scan.data + 1024,
        "with its skull": head,
    }
    for how, data in mistreated.items():
        assert any("intensities" in line for line in told(imgmed.Volume(data, scan.affine))), how
