from types import SimpleNamespace

import numpy as np
import pytest

from r2d2 import config
from r2d2.data.cases import find_cases
from r2d2.data.prepare import prepare
from r2d2.imgmed import augment
from r2d2.models import fcn
from r2d2.training.learner import Learner
from r2d2.training.state import State

ALONE = SimpleNamespace(
    rank=0,
    size=1,
    sum=lambda value, name: value,
    sum_gradients=list,
    sum_tensor=lambda value, name: value,
    gather_objects=lambda value: [value],
)
"""A ring of one, without Horovod."""

FCN = "model={network: dist-fcn, encoder: vgg16, stride: 16, head_width: 8, dropout: 0}"
UNET = "model={filters: 4, depth: 2, normalization: %s, residual: true}"
TABLE_1 = "training.augmentation={rotation_degrees: [-45, 45], zoom: [0.8, 1.2], shift: [0, 0.05]}"


@pytest.mark.parametrize(("overrides", "ranges"), [([], None), ([TABLE_1], augment.TABLE_1)])
def test_the_images_of_a_step_are_augmented_as_the_experiment_says(virtual_patients, tmp_path, overrides, ranges):
    text = f"{{name: x, data: {{path: {virtual_patients}}}, preprocess: {{image_size: [16, 20]}}}}"
    settings = ["model.filters=1", "model.depth=1", "training.batch_size=3", "training.seed=7", *overrides]
    experiment = config.parse(text, settings)
    prepared = prepare(find_cases(experiment.data), experiment.preprocess, tmp_path)
    learner = Learner(experiment, prepared, [prepared.cases[0].name], ALONE)
    learner.start(State())
    images, _ = next(learner._batches)
    for row, image in zip(learner._feed.batch(0), images.numpy(), strict=True):
        expected = prepared.images[row].astype(np.float32)
        if ranges:
            draw = augment.draw(ranges, 7, 0, int(row), (16, 20), tuple(prepared.pixel_mm[row]))
            expected, _ = augment.apply(draw, expected, prepared.masks[row])
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-4)


def test_classes_are_weighed_by_their_pixels_in_the_training_images(virtual_patients, tmp_path):
    text = f"{{name: x, data: {{path: {virtual_patients}}}, preprocess: {{image_size: [16, 20]}}}}"
    slices = "preprocess.slices={count: 3, choice: foreground}"
    experiment = config.parse(text, ["model={filters: 1, depth: 1}", "training.class_weights=fingerprint", slices])
    prepared = prepare(find_cases(experiment.data), experiment.preprocess, tmp_path)
    case = prepared.cases[0]
    learner = Learner(experiment, prepared, [case.name], ALONE)
    rows = prepared.training_rows([case.name], experiment.preprocess.slices)
    assert len(rows) == 3
    counts = np.bincount(prepared.masks[rows].ravel(), minlength=4)
    assert learner._loss.keywords["weights"] == pytest.approx(counts.sum() / (4 * counts))


def epoch(learner, state):
    """An epoch's metrics."""
    for _ in range(learner.steps_per_epoch):
        learner.step(state)
    return learner.end_epoch(state)


@pytest.mark.parametrize("network", [FCN, UNET % "batch", UNET % "group"])
def test_the_loss_of_every_network_falls(virtual_patients, tmp_path, monkeypatch, network):
    monkeypatch.setattr(fcn, "FILTERS", (4, 8, 8, 8, 8))
    text = f"{{name: x, data: {{path: {virtual_patients}}}, preprocess: {{image_size: [24, 32]}}}}"
    settings = ["training={batch_size: 16, optimizer: adam, learning_rate: 0.01, epochs: 4, warmup_epochs: 0}"]
    experiment = config.parse(text, [network, *settings])
    prepared = prepare(find_cases(experiment.data), experiment.preprocess, tmp_path)
    learner = Learner(experiment, prepared, [case.name for case in prepared.cases], ALONE)
    state = State()
    learner.start(state)
    losses = [epoch(learner, state)["train/loss"] for _ in range(4)]
    assert losses[0] < np.log(4) + 1 and losses[3] < 0.8 * losses[0] and np.isfinite(losses).all()


def test_frozen_blocks_begin_to_learn_in_their_epoch(virtual_patients, tmp_path):
    text = f"{{name: x, data: {{path: {virtual_patients}}}, preprocess: {{image_size: [24, 32]}}}}"
    settings = ["training={batch_size: 32, learning_rate: 0.1, epochs: 2, warmup_epochs: 0}"]
    frozen = "weights: zoo:a/1, freeze: {layers: [encoder], until_epoch: 1}"
    network = f"model={{filters: 2, depth: 1, dropout: 0.1, {frozen}}}"
    experiment = config.parse(text, [network, *settings])
    prepared = prepare(find_cases(experiment.data), experiment.preprocess, tmp_path)
    learner = Learner(experiment, prepared, [case.name for case in prepared.cases], ALONE)
    state = State()
    learner.start(state)

    def weights(block):
        layers = [layer for layer in learner.model.layers if layer.name.startswith(block)]
        return np.concatenate([np.ravel(weight) for layer in layers for weight in layer.get_weights()])

    before = weights("encoder"), weights("decoder")
    epoch(learner, state)
    np.testing.assert_array_equal(weights("encoder"), before[0])
    assert (weights("decoder") != before[1]).any()
    epoch(learner, state)
    assert (weights("encoder") != before[0]).any()
    assert all(layer.trainable for layer in learner.plain_model().layers)
