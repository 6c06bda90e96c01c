"""A model's file is data: nothing in it is run, and nothing of a bomb is unpacked."""

import json
import zipfile

import keras
import numpy as np
import pytest
from helpers.saved import LABELS, ranges_of, save_model, small_network

from r2d2.errors import InputError
from r2d2.inference import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "m", small_network(), ranges=ranges_of((1, 2, 3), (0, 1, 2)))


@pytest.fixture
def planted(folder, tmp_path):
    """A function that copies the folder with other content in its `.keras` file."""

    def plant(change=lambda description: None, **entries):
        copy = tmp_path / "planted"
        (copy / "data").mkdir(parents=True)
        (copy / "MLmodel").write_bytes((folder / "MLmodel").read_bytes())
        with (
            zipfile.ZipFile(folder / "data" / "model.keras") as source,
            zipfile.ZipFile(copy / "data" / "model.keras", "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for name in source.namelist():
                content = source.read(name)
                if name == "config.json":
                    description = json.loads(content)
                    change(description)
                    content = json.dumps(description).encode()
                target.writestr(name, content)
            for name, content in entries.items():
                target.writestr(name, content)
        return copy

    return plant


def test_a_model_comes_back_with_all_that_it_carries(folder):
    saved = load(folder)
    assert saved.labels == LABELS and saved.channels == ("0",)
    assert saved.ranges == ranges_of((1, 2, 3), (0, 1, 2))
    images = np.random.default_rng(0).standard_normal((2, *saved.model.input_shape[1:])).astype(np.float32)
    np.testing.assert_allclose(saved.model(images), small_network()(images), rtol=1e-5, atol=1e-6)


def test_a_model_that_was_saved_before_ranges_were_kept_has_none(tmp_path):
    assert load(save_model(tmp_path / "old", small_network())).ranges is None


@pytest.mark.parametrize(
    ("module", "name", "registered"),
    [("os", "system", None), ("builtins", "exec", None), ("mine", "Evil", "mine>Evil"), (None, "Evil", "mine>Evil")],
)
def test_a_planted_class_is_named_and_refused(planted, module, name, registered):
    @keras.saving.register_keras_serializable(package="mine")
    class Evil(keras.layers.Layer):
        def __init__(self, **settings):
            raise AssertionError("it was made")

    def add(description):
        description["config"]["layers"][3] |= {"module": module, "class_name": name, "registered_name": registered}

    with pytest.raises(InputError, match=rf"model.keras: needs .*{name}, which is code") as told:
        load(planted(add))
    assert "\n" not in str(told.value)


def test_an_activation_that_is_a_function_of_the_system_is_refused(planted):
    def change(description):
        layer = next(one for one in description["config"]["layers"] if one["class_name"] == "Conv2D")
        layer["config"]["activation"] = {"module": "os", "class_name": "function", "config": "system"}

    with pytest.raises(InputError, match=r"needs os\.function, which is code"):
        load(planted(change))


def test_a_function_of_keras_that_is_no_layer_is_refused(planted):
    def change(description):
        description["config"]["layers"][3] |= {"module": "keras.utils", "class_name": "get_file"}

    with pytest.raises(InputError, match=r"model.keras: cannot be loaded \(.*get_file") as told:
        load(planted(change))
    assert "\n" not in str(told.value)


def test_a_lambda_layer_is_refused(folder, planted):
    copy = planted()
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Lambda(lambda images: images * 2)])
    network.save(copy / "data" / "model.keras")
    with pytest.raises(InputError, match=r"needs keras.layers.Lambda, which is code"):
        load(copy)


def test_a_network_without_scores_before_the_softmax_is_refused(planted):
    copy = planted()
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 1, activation="softmax")]).save(
        copy / "data" / "model.keras"
    )
    with pytest.raises(InputError, match="no layer named `logits`, the scores before the softmax"):
        load(copy)


def test_a_bomb_and_a_name_that_leads_out_are_refused_before_they_are_unpacked(planted, monkeypatch):
    folder = planted(**{"assets/zeros": bytes(64 << 20)})

    def unpack(*_, **__):
        raise AssertionError("it was unpacked")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", unpack)
        with pytest.raises(InputError, match="more than the 16777216 that are allowed; it is not unpacked"):
            load(folder)
    with zipfile.ZipFile(folder / "data" / "model.keras", "w") as opened:
        opened.writestr("../../evil", b"1")
    monkeypatch.setattr(zipfile.ZipFile, "open", unpack)
    with pytest.raises(InputError, match="leads out of the folder"):
        load(folder)


def test_damage_is_one_line(folder, planted, tmp_path):
    copy = planted(lambda description: description.update(config=None))
    with pytest.raises(InputError, match=r"model.keras: ") as told:
        load(copy)
    assert "\n" not in str(told.value)
    (copy / "data" / "model.keras").unlink()
    with pytest.raises(InputError, match="no such file"):
        load(copy)
    text = (folder / "MLmodel").read_text()
    copy = save_model(tmp_path / "m", small_network())
    (copy / "MLmodel").write_text(text.replace("contents:", "kontents:"))
    with pytest.raises(InputError, match=r"its metadata\.r2d2 is damaged"):
        load(copy)
