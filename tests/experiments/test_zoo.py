"""The starter zoo: packages that are whole, honest and of use, and the tools that build them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from r2d2 import imgmed
from r2d2.inference import Segmenter, load
from r2d2.tracking import package

ZOO = Path(__file__).parents[2] / "experiments" / "zoo"
MODELS = ("brain-tissue", "brain-extraction", "lung-tumour")


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", ZOO / "build.py")
    sys.modules["build"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["build"]


def test_every_model_that_is_built_is_there(build):
    assert tuple(build.MODELS) == MODELS
    assert {path.stem for path in ZOO.glob("*.zip")} == {*MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_a_package_is_whole_says_what_it_is_and_segments_a_scan(name):
    path = ZOO / f"{name}.zip"
    assert path.stat().st_size < 2e6
    with package.opened(path) as (folder, card):
        saved = load(folder)
    assert card["name"] == name and card["licence"] and card["known_failures"] and "dice" in card["scores"]
    assert "Not for use on patients" in card["intended_use"] or "not for use on patients" in card["intended_use"]
    assert card["patients"]["test"] >= 1 and card["ranges"]["intensities"]
    scan = imgmed.Volume(np.random.default_rng(0).normal(100, 20, (40, 44, 5)).astype(np.float32), np.eye(4))
    segmenter = Segmenter(saved.model, saved.experiment.preprocess)
    mask = segmenter.segment(scan, segmenter.images(scan, path)).mask
    assert mask.data.shape == (40, 44, 5) and set(np.unique(mask.data)) <= set(saved.labels)


def test_a_virtual_head_has_its_brain_inside_and_is_another_each_time(build, tmp_path):
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (60, 70, 60)), indexing="ij")
    distance = np.sqrt(x**2 + y**2 + z**2)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = (-90, -123, -82)
    for name, data in (("ch2.nii.gz", 200 * (distance < 0.9)), ("ch2bet.nii.gz", 150 * (distance < 0.6))):
        imgmed.write_volume(imgmed.Volume(data.astype(np.uint8), affine), tmp_path / name)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    write = build.Head(tmp_path, tmp_path)
    for index in (0, 1):
        write(index)
    images, labels = (
        [imgmed.read_volume(tmp_path / part / f"head_00{number}.nii.gz") for number in (1, 2)]
        for part in ("images", "labels")
    )
    for image, label in zip(images, labels, strict=True):
        assert image.spacing_mm == (2.0, 2.0, 2.0) and image.data.shape == label.data.shape == (90, 105, 90)
        volume_ml = float(label.data.sum()) * 8 / 1000
        assert 0.6 < volume_ml / (4 / 3 * np.pi * 0.6**3 * 90 * 105 * 90 / 1000) < 1.5
        assert image.data[label.data > 0].mean() > 5 * image.data[:3, :3].mean()
    assert (images[0].data != images[1].data).mean() > 0.5 and (labels[0].data != labels[1].data).any()
