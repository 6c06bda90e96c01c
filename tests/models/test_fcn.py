import cv2
import keras
import numpy as np
import pytest
from helpers.loading import predict_elsewhere

from r2d2 import config, models
from r2d2.models import fcn
from r2d2.models.precision import with_precision

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def narrow():
    """An encoder of few filters; what is said of them holds for any number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcn, "FILTERS", (4, 5, 6, 7, 8))
        yield


def network(channels=1, classes=3, size=(37, 50), **settings):
    keras.utils.set_random_seed(1)
    return models.build(config.DistFCN(**{"head_width": 8, "encoder": "vgg16", **settings}), channels, classes, size)


@pytest.fixture(scope="module")
def knowing():
    """A network whose scores are not zero any more, and some images."""
    model = network()
    for layer in model.layers:
        if layer.name in ("score_32", "score_16", "score_8"):
            kernel, bias = layer.get_weights()
            layer.set_weights([RNG.normal(0, 0.3, kernel.shape), bias])
    return model, RNG.normal(0, 1, (2, 37, 50, 1)).astype(np.float32)


def predict(model, batch):
    return keras.ops.convert_to_numpy(model(batch, training=False))


@pytest.mark.parametrize(("encoder", "convolutions"), [("vgg16", 13), ("vgg19", 16)])
def test_the_encoder_has_the_convolutions_and_weights_of_keras_own(monkeypatch, encoder, convolutions):
    monkeypatch.setattr(fcn, "FILTERS", (64, 128, 256, 512, 512))
    ours = network(channels=3, size=(32, 32), encoder=encoder)
    theirs = getattr(keras.applications, encoder.upper())(include_top=False, weights=None, input_shape=(32, 32, 3))
    names = [layer.name for layer in theirs.layers if "conv" in layer.name]
    assert len(names) == convolutions
    x = inputs = keras.Input((32, 32, 3))
    for layer in ours.layers:
        if layer.name.startswith("encoder"):
            x = layer(x)
    for name in names:
        layer = ours.get_layer(name.replace("block", "encoder_").replace("conv", "conv_"))
        theirs.get_layer(name).set_weights(layer.get_weights())
    image = RNG.normal(0, 50, (1, 32, 32, 3)).astype(np.float32)
    expected = predict(theirs, image)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(predict(keras.Model(inputs, x), image), expected, rtol=1e-4, atol=1e-4)


def test_the_papers_encoder_is_the_default():
    assert fcn.CONVOLUTIONS[config.DistFCN().encoder] == (2, 2, 4, 4, 4)


@pytest.mark.parametrize(("stride", "scores"), [(32, [32]), (16, [32, 16]), (8, [32, 16, 8])])
def test_each_stride_adds_the_scores_of_one_more_pooling(stride, scores):
    model = network(stride=stride, size=(32, 64))
    assert [s for s in (32, 16, 8) if f"score_{s}" in [layer.name for layer in model.layers]] == scores
    for score in scores:
        assert model.get_layer(f"score_{score}").output.shape == (None, 32 // score, 64 // score, 3)
    last = model.get_layer(f"score_{stride}_up")
    assert last.strides == (stride, stride) and last.kernel_size == (2 * stride, 2 * stride) and not last.trainable
    assert all(model.get_layer(f"score_{score}_up").trainable for score in scores[:-1])


@pytest.mark.parametrize("size", [(37, 50), (8, 33)])
def test_any_image_size_comes_back_and_a_new_network_finds_all_classes_alike(size):
    model = network(size=size)
    probabilities = predict(model, RNG.normal(0, 1, (1, *size, 1)).astype(np.float32))
    assert probabilities.shape == (1, *size, 3) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("by", [2, 8])
def test_enlarging_is_bilinear_and_keeps_classes_apart(by):
    scores = RNG.normal(0, 1, (1, 6, 9, 3)).astype(np.float32)
    inputs = keras.Input((6, 9, 3))
    model = keras.Model(inputs, fcn._enlarged(inputs, 3, by, "up"))
    model.get_layer("up").set_weights([fcn._bilinear(by, 3)])
    found = predict(model, scores)[0]
    expected = cv2.resize(scores[0], (9 * by, 6 * by), interpolation=cv2.INTER_LINEAR)
    inner = slice(by, -by)  # outermost pixels fade: there is nothing beyond
    np.testing.assert_allclose(found[inner, inner], expected[inner, inner], atol=1e-6)


def test_a_pixel_of_the_deepest_scores_lies_over_its_own_part_of_the_image():
    # 37 rows are padded to 64, 13 above: rows 32 to 63 of the padded image are rows 19 to 36 of the image.
    model = network(stride=32)
    kernel, bias = model.get_layer("score_32").get_weights()
    head = keras.Model(model.get_layer("score_32").output, model.get_layer("logits").output)
    scores = np.zeros((1, 2, 2, 3), np.float32)
    scores[0, 1, 0, 2] = 1.0  # below left, class 2
    found = predict(head, scores)[0]
    assert (kernel == 0).all() and (bias == 0).all() and found.shape == (37, 50, 3)
    assert (found[..., :2] == 0).all()
    # The middle of the pixel is row 47.5, column 15.5 of the padded image: row 34.5, column 8.5 of the image.
    assert {tuple(place) for place in np.argwhere(found[..., 2] == found.max())} == {(34, 8), (34, 9), (35, 8), (35, 9)}


@pytest.mark.parametrize(
    ("channels", "blue_green_red"),
    [
        (1, [[1], [1], [1]]),
        (2, [[1, 0], [0, 1], [1, 0]]),
        (3, [[0, 0, 1], [0, 1, 0], [1, 0, 0]]),
        (4, [[0, 0, 1, 0], [0, 1, 0, 0], [0.5, 0, 0, 0.5]]),
        (7, [[0, 0, 1 / 2, 0, 0, 1 / 2, 0], [0, 1 / 2, 0, 0, 1 / 2, 0, 0], [1 / 3, 0, 0, 1 / 3, 0, 0, 1 / 3]]),
    ],
)
def test_channels_become_blue_green_and_red(channels, blue_green_red):
    layer = network(channels=channels, size=(8, 8)).get_layer("bgr")
    np.testing.assert_allclose(layer.get_weights()[0][0, 0].T, blue_green_red, rtol=1e-6)
    assert layer.trainable == (channels > 3) and not layer.use_bias


def test_factors_are_those_of_the_colours():
    np.testing.assert_allclose(fcn.colours(1, (1.0, 2.0, 3.0))[0, 0], [[1, 2, 3]])


def test_logits_share_the_weights_and_their_softmax_is_the_prediction(knowing):
    model, batch = knowing
    values = predict(models.logits(model), batch).astype(np.float64)
    assert np.ptp(values) > 0.1
    expected = np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(predict(model, batch), expected, atol=1e-6)


def test_dropout_is_in_the_head_and_off_when_predicting(knowing):
    model, batch = knowing
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.5, 0.5]
    np.testing.assert_array_equal(predict(model, batch), predict(model, batch))
    assert "head_dropout_1" not in [layer.name for layer in network(dropout=0.0, size=(8, 8)).layers]


def test_bfloat16_keeps_scores_and_what_is_made_of_them_in_float32(knowing):
    model, batch = knowing
    copy = with_precision(model, "bfloat16")
    single = {layer.name for layer in copy.layers if layer.name != "image" and layer.compute_dtype == "float32"}
    assert single == {
        *(f"score_{stride}{end}" for stride in (32, 16, 8) for end in ("", "_up")),
        *("score_16_sum", "score_8_sum", "logits", "probabilities"),
    }
    assert all(variable.dtype == "float32" for variable in copy.variables if variable.name != "seed_generator_state")
    assert [layer.name for layer in copy.layers if not layer.trainable] == ["bgr", "score_8_up"]
    expected, found = predict(model, batch), predict(copy, batch)
    assert found.dtype == np.float32 and not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=5e-2)


def test_a_saved_model_loads_without_r2d2_and_predicts_the_same(knowing, tmp_path):
    model, batch = knowing
    np.testing.assert_allclose(predict_elsewhere(model, batch, tmp_path), predict(model, batch), atol=1e-5)
