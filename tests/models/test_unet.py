import subprocess
import sys

import keras
import numpy as np
import pytest

from r2d2 import config, models
from r2d2.models.precision import choose, with_precision

RNG = np.random.default_rng(0)
SMALL = config.DistUNet(filters=4, depth=2)


def network(model=SMALL, channels=2, classes=3, size=(37, 50)):
    keras.utils.set_random_seed(1)
    return models.build(model, channels, classes, size)


def images(number=2, size=(37, 50), channels=2):
    return RNG.normal(0, 1, (number, *size, channels)).astype(np.float32)


def predict(model, batch):
    return keras.ops.convert_to_numpy(model(batch, training=False))


@pytest.mark.parametrize("size", [(37, 50), (16, 16), (8, 9), (1, 1), (17, 32)])
@pytest.mark.parametrize("depth", [1, 4])
def test_any_image_size_comes_back_and_probabilities_sum_to_one(size, depth):
    model = network(config.DistUNet(filters=2, depth=depth), size=size)
    probabilities = predict(model, images(size=size))
    assert probabilities.shape == (2, *size, 3) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    assert (probabilities >= 0).all()


def test_padding_is_cropped_where_it_was_added():
    # 37 is 3 short of 40, 50 is 2 short of 52: one row above, two below; one column on either side.
    model = network()
    assert model.get_layer("pad").padding == model.get_layer("crop").cropping == ((1, 2), (1, 1))
    names = [layer.name for layer in network(size=(40, 52)).layers]
    assert "pad" not in names and "crop" not in names


def test_layers_are_named_for_people():
    model = network(config.DistUNet(filters=2, depth=2, dropout=0.5), size=(8, 8))
    assert [layer.name for layer in model.layers] == [
        "image",
        *("encoder_1_conv_1", "encoder_1_conv_2", "encoder_1_pool"),
        *("encoder_2_conv_1", "encoder_2_conv_2", "encoder_2_dropout", "encoder_2_pool"),
        *("bottom_conv_1", "bottom_conv_2", "bottom_dropout"),
        *("decoder_2_up", "decoder_2_skip", "decoder_2_conv_1", "decoder_2_conv_2"),
        *("decoder_1_up", "decoder_1_skip", "decoder_1_conv_1", "decoder_1_conv_2"),
        *("logits", "probabilities"),
    ]


def convolution(size, filters_in, filters_out):
    return size * size * filters_in * filters_out + filters_out


def test_the_original_u_net_has_its_31_million_parameters():
    # Ronneberger et al. 2015, figure 1: 64 to 1024 filters, one channel in, two classes out.
    expected = (
        convolution(3, 1, 64)
        + convolution(3, 64, 64)
        + (convolution(3, 64, 128) + convolution(3, 128, 128))
        + (convolution(3, 128, 256) + convolution(3, 256, 256))
        + (convolution(3, 256, 512) + convolution(3, 512, 512))
        + (convolution(3, 512, 1024) + convolution(3, 1024, 1024))
        + (convolution(2, 1024, 512) + convolution(3, 1024, 512) + convolution(3, 512, 512))
        + (convolution(2, 512, 256) + convolution(3, 512, 256) + convolution(3, 256, 256))
        + (convolution(2, 256, 128) + convolution(3, 256, 128) + convolution(3, 128, 128))
        + (convolution(2, 128, 64) + convolution(3, 128, 64) + convolution(3, 64, 64))
        + convolution(1, 64, 2)
    )
    assert expected == 31_030_658  # 31 031 810 is the number for three channels
    assert network(config.DistUNet(filters=64, depth=4), channels=1, classes=2, size=(572, 572)).count_params() == expected


def test_logits_share_the_weights_and_their_softmax_is_the_prediction():
    model, batch = network(), images()
    values = predict(models.logits(model), batch).astype(np.float64)
    expected = np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(predict(model, batch), expected, atol=1e-6)
    assert models.logits(model).variables[0] is model.variables[0]


def test_every_image_is_predicted_on_its_own():
    model, batch = network(), images(3)
    np.testing.assert_allclose(predict(model, batch)[1:2], predict(model, batch[1:2]), atol=1e-6)


def test_dropout_is_off_when_predicting():
    model, batch = network(config.DistUNet(filters=4, depth=2, dropout=0.9)), images()
    np.testing.assert_array_equal(predict(model, batch), predict(model, batch))


def test_bfloat16_computes_so_and_keeps_its_variables_in_float32():
    model, batch = network(config.DistUNet(filters=8, depth=2)), images()
    copy = with_precision(model, "bfloat16")
    assert all(variable.dtype == "float32" for variable in copy.variables)
    computed = {layer.name: layer.compute_dtype for layer in copy.layers if layer.name != "image"}
    assert computed.pop("logits") == computed.pop("probabilities") == "float32"
    assert set(computed.values()) == {"bfloat16"}
    expected, found = predict(model, batch), predict(copy, batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)


def test_a_bfloat16_copy_has_variables_of_its_own_and_leaves_the_model_plain():
    model = network()
    before = model.get_weights()
    copy = with_precision(model, "bfloat16")
    copy.set_weights([np.zeros_like(weight) for weight in before])
    for weight, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert with_precision(model, "float32") is model


def test_a_precision_that_is_asked_for_is_taken_and_auto_is_one_of_the_two():
    assert choose("float32") == "float32" and choose("bfloat16") == "bfloat16"
    assert choose("auto") in ("float32", "bfloat16")


LOAD = """
import sys
import keras, numpy
model = keras.saving.load_model(sys.argv[1], compile=False, safe_mode=True)
numpy.save(sys.argv[3], keras.ops.convert_to_numpy(model(numpy.load(sys.argv[2]), training=False)))
assert not [name for name in sys.modules if name.split(".")[0] in ("r2d2", "horovod")]
assert {layer.__module__.split(".")[0] for layer in model.layers} == {"keras"}
"""


def test_a_saved_model_loads_without_r2d2_and_predicts_the_same(tmp_path):
    model, batch = network(config.DistUNet(filters=4, depth=2, dropout=0.5)), images()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", batch)
    files = [str(tmp_path / name) for name in ("model.keras", "images.npy", "probabilities.npy")]
    subprocess.run([sys.executable, "-c", LOAD, *files], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(files[2]), predict(model, batch), atol=1e-5)
