"""An experiment file as a form: every key is there, and what it makes is the file."""

from itertools import pairwise

import pytest
import yaml

from r2d2 import config
from r2d2.config import form
from r2d2.errors import InputError

SMALLEST = {"name": "a", "data": {"path": "/scans"}}
OPTIONAL = {"training": {"augmentation": {}, "early_stopping": {"patience": 3}}}
PATTERN = "^(P[0-9]+): #.*$"  # which YAML would read otherwise


@pytest.mark.parametrize(("network", "own"), [("dist-unet", "model.filters"), ("dist-fcn", "model.stride")])
def test_every_key_is_there_once_and_says_its_default(network, own):
    model = {"network": network, "weights": "zoo:a/1", "freeze": {"until_epoch": 1}}
    known = config.parameters(config.parse(yaml.safe_dump(SMALLEST | OPTIONAL | {"model": model})))
    settings = {one.key: one for one in form.settings(network)}
    assert settings.keys() == known.keys() - set(form.PLACES) and own in settings
    given = ("name", "data.path", "model.network", "model.weights", "model.freeze.until_epoch")
    for key, one in settings.items():
        if key not in (*given, "training.early_stopping.patience") and one.kind != "yaml":
            assert str(one.default) == known[key], key


def test_kinds_bounds_choices_and_words_come_from_the_schema():
    settings = {one.key: one for one in form.settings()}
    epochs, rate = settings["training.epochs"], settings["training.learning_rate"]
    assert (epochs.kind, epochs.default, epochs.least, epochs.most, epochs.above) == ("whole", 100, 1, None, False)
    assert (rate.kind, rate.default, rate.least, rate.above) == ("number", 0.01, 0, True)
    assert settings["preprocess.plane"].choices == ("sagittal", "coronal", "axial")
    assert settings["model.network"].choices == ("dist-unet", "dist-fcn")
    assert settings["training.xla"].kind == "truth" and settings["preprocess.image_size"].kind == "yaml"
    assert settings["training.class_weights"].kind == "yaml" and settings["data.path"].kind == "text"
    assert settings["preprocess.pixel_mm"].help.startswith("`pixel_mm`: the size of their pixels")
    assert form.about()["training.ring"] == "How gradients travel between the workers (Horovod)."


def test_what_a_form_holds_is_the_file_in_its_order():
    settings = {one.key: one for one in form.settings()}
    held = {
        "training.epochs": 3,
        "training.augmentation.zoom": "[0.9, 1.1]",
        "training.deterministic": True,
        "data.path": "/scans of: a #1",
        "data.patient_pattern": PATTERN,
        "name": "007",
    }
    text = form.as_file([settings[key].change(value) for key, value in held.items()])
    assert [*yaml.safe_load(text)] == ["name", "data", "training"]
    experiment = config.parse(text)
    assert (experiment.name, str(experiment.data.path)) == ("007", "/scans of: a #1")
    assert experiment.data.patient_pattern == PATTERN and experiment.training.deterministic
    assert experiment.training.augmentation is not None and experiment.training.augmentation.zoom == (0.9, 1.1)
    many = (
        "[&a [x,x,x,x,x,x,x,x,x]"
        + "".join(f", &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefghi"))
        + "]"
    )
    for wrong in ("[1", many, "[" * 3000, f"[{'1,' * 10_000}]"):
        with pytest.raises(InputError, match="the value is not YAML") as caught:
            form.as_file([settings["preprocess.window"].change(wrong)])
        assert len(str(caught.value)) < 300
