import keras
import numpy as np
import pytest
from helpers.loading import predict_elsewhere

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
    assert network(config.DistUNet(), channels=1, classes=2, size=(572, 572)).count_params() == expected


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
    assert with_precision(model, "float32", fuse=False) is model


def test_a_precision_that_is_asked_for_is_taken_and_auto_is_one_of_the_two():
    assert choose("float32") == "float32" and choose("bfloat16") == "bfloat16"
    assert choose("auto") in ("float32", "bfloat16")


def test_a_saved_model_loads_without_r2d2_and_predicts_the_same(tmp_path):
    settings = config.DistUNet(filters=4, depth=2, dropout=0.5, normalization="group", residual=True)
    model, batch = network(settings), images()
    np.testing.assert_allclose(predict_elsewhere(model, batch, tmp_path), predict(model, batch), atol=1e-5)


@pytest.mark.parametrize("normalization", ["none", "group", "batch"])
@pytest.mark.parametrize("residual", [False, True])
def test_normalization_lies_before_the_relu_and_what_entered_is_added_before_the_last_one(normalization, residual):
    model = network(config.DistUNet(filters=4, depth=1, normalization=normalization, residual=residual))
    found = [layer.name for layer in model.layers if layer.name.startswith("bottom_")]
    norm = normalization != "none"
    expected = ["conv_1", *(["norm_1", "relu_1"] if norm else []), "conv_2", *(["norm_2"] if norm else [])]
    expected += ["shortcut", "add"] if residual else []
    expected += ["relu_2"] if norm or residual else []
    assert sorted(found) == sorted(f"bottom_{name}" for name in expected)
    for layer in model.layers:
        if "_conv_" in layer.name:
            assert layer.use_bias != norm
            inside = not norm and not (residual and layer.name.endswith("_2"))
            assert layer.activation.__name__ == ("relu" if inside else "linear")
    probabilities = predict(model, images())
    assert probabilities.shape == (2, 37, 50, 3) and np.ptp(probabilities) > 0.01


def test_a_residual_level_that_adds_nothing_passes_on_the_positive_part_of_what_entered():
    model = network(config.DistUNet(filters=2, depth=1, residual=True), channels=2, size=(8, 8))
    assert "encoder_1_shortcut" not in [layer.name for layer in model.layers]  # two channels in, two filters
    layer = model.get_layer("encoder_1_conv_2")
    layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    batch = images(size=(8, 8))
    level = keras.Model(model.input, model.get_layer("encoder_1_relu_2").output)
    np.testing.assert_array_equal(predict(level, batch), np.maximum(batch, 0))


def test_group_normalization_is_that_of_each_image_alone_over_32_groups_or_as_many_as_divide():
    model = network(config.DistUNet(filters=24, depth=1, normalization="group"), size=(8, 8))
    norm = model.get_layer("encoder_1_norm_1")
    assert norm.groups == 8 and model.get_layer("bottom_norm_1").groups == 16  # of 24 and 48 filters
    features = RNG.normal(3, 5, (2, 8, 8, 24)).astype(np.float32)
    grouped = features.astype(np.float64).reshape(2, 64, 8, 3)
    mean, deviation = (grouped.mean(axis=(1, 3), keepdims=True), grouped.std(axis=(1, 3), keepdims=True))
    expected = ((grouped - mean) / np.sqrt(deviation**2 + norm.epsilon)).reshape(features.shape)
    np.testing.assert_allclose(norm(features), expected, atol=1e-4)


@pytest.mark.parametrize("normalization", ["group", "batch"])
def test_normalization_in_bfloat16_takes_its_sums_in_float32(normalization):
    # 300 and a little: a variance summed in bfloat16, with 8 bits, would be noise or negative.
    model = network(config.DistUNet(filters=4, depth=1, normalization=normalization), size=(16, 16))
    layer = with_precision(model, "bfloat16").get_layer("encoder_1_norm_1")
    assert layer.compute_dtype == "bfloat16" and {weight.dtype for weight in layer.weights} == {"float32"}
    features = keras.ops.cast(RNG.normal(300, 20, (2, 16, 16, 4)), "bfloat16")
    exact = model.get_layer("encoder_1_norm_1")(keras.ops.cast(features, "float32"), training=True)
    found = layer(features, training=True)
    assert found.dtype == "bfloat16"
    np.testing.assert_allclose(keras.ops.cast(found, "float32"), exact, atol=0.02)


def test_moving_averages_are_those_of_the_batch_normalizations_and_move_in_training_alone():
    model = network(config.DistUNet(filters=4, depth=1, normalization="batch"), size=(8, 8))
    found = models.moving_averages(model)
    assert len(found) == 2 * 6 and all("moving" in variable.name for variable in found)
    before = [variable.numpy() for variable in found]
    model(images(size=(8, 8)), training=False)
    for variable, value in zip(found, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    model(images(size=(8, 8)), training=True)
    assert all((variable.numpy() != value).any() for variable, value in zip(found, before, strict=True))
    assert models.moving_averages(network(size=(8, 8))) == []


def test_the_mean_of_two_workers_moving_averages_is_that_of_their_minibatches_in_any_order():
    # Two logical workers, two steps: kept apart and averaged at the end, or averaged after every step.
    layer = keras.layers.BatchNormalization(momentum=0.9)
    layer.build((None, 4, 4, 2))
    batches = RNG.normal(2, 3, (2, 2, 5, 4, 4, 2)).astype(np.float32)  # worker, step, images

    def after(start, batch):
        layer.moving_mean.assign(start[0])
        layer.moving_variance.assign(start[1])
        layer(batch, training=True)
        return np.array([layer.moving_mean.numpy(), layer.moving_variance.numpy()])

    fresh = np.array([np.zeros(2), np.ones(2)])
    apart = np.mean([after(after(fresh, worker[0]), worker[1]) for worker in batches], axis=0)
    once = np.mean([after(fresh, worker[0]) for worker in batches], axis=0)
    np.testing.assert_allclose(np.mean([after(once, worker[1]) for worker in batches], axis=0), apart, rtol=1e-5)
