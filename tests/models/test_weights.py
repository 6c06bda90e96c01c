import hashlib
import http.server
import threading
import zipfile
from functools import partial

import h5py
import keras
import numpy as np
import pytest

from r2d2 import config, models
from r2d2.errors import InputError, WorkFailed
from r2d2.models import fcn, weights
from r2d2.models.weights import carry_over

RNG = np.random.default_rng(0)
FILTERS = (3, 4, 5, 6, 7)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """An encoder of few filters; what is said of them holds for any number."""
    monkeypatch.setattr(fcn, "FILTERS", FILTERS)


def dist_fcn(channels=1, classes=2, **settings):
    return models.build(config.DistFCN(**{"encoder": "vgg16", "head_width": 4, **settings}), channels, classes, (8, 8))


def dist_unet(channels=1, classes=2, **settings):
    return models.build(config.DistUNet(**{"filters": 3, "depth": 1, **settings}), channels, classes, (8, 8))


def randomized(model):
    for layer in model.layers:
        values = [RNG.normal(0, 0.5, weight.shape) for weight in layer.get_weights()]
        # What has one axis may be a variance.
        layer.set_weights([value if value.ndim > 1 else np.abs(value) for value in values])
    return model


def kernel(model, layer):
    return model.get_layer(layer).get_weights()[0]


def vgg(counts, filters=FILTERS):
    """A network like Keras' VGG, with its layers' names, and few filters."""
    x = inputs = keras.Input((None, None, 3), name="input")
    for block, (count, width) in enumerate(zip(counts, filters, strict=True), start=1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    return randomized(keras.Model(inputs, x, name="vgg"))


def as_keras_2(model, path):
    """Written as Keras 2 wrote the files that Keras hands out."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{name}:0" for name in ("kernel", "bias")] if layer.weights else []
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value
    return path


def as_keras_3(model, path):
    path = path.with_suffix(".weights.h5")
    model.save_weights(path)
    return path


def as_model(model, path):
    path = path.with_suffix(".keras")
    model.save(path)
    return path


@pytest.mark.parametrize("written", [as_keras_2, as_keras_3, as_model])
@pytest.mark.parametrize(("encoder", "counts"), [("vgg16", (2, 2, 3, 3, 3)), ("vgg19", (2, 2, 4, 4, 4))])
def test_z_scored_scans_give_what_their_colours_give_in_vgg_but_for_a_factor(tmp_path, written, encoder, counts):
    theirs = vgg(counts)
    ours = dist_fcn(channels=3, encoder=encoder)
    carried = carry_over(ours, written(theirs, tmp_path / "vgg.h5"))
    assert len(carried.whole) == sum(counts) and list(carried.adapted) == ["bgr"] and carried.unused == ()
    assert set(carried.fresh.values()) == {"not in the file"} and "head_conv_1" in carried.fresh

    scan = RNG.normal(0, 1, (1, 32, 32, 3)).astype(np.float32)
    blue_green_red = scan[..., ::-1] * np.float32([57.4, 57.1, 58.4])
    x = inputs = keras.Input((32, 32, 3))
    for layer in ours.layers:
        if layer.name == "bgr" or layer.name.startswith("encoder"):
            x = layer(x)
    expected = keras.ops.convert_to_numpy(theirs(blue_green_red)) / 57.6
    assert expected.max() > 1
    np.testing.assert_allclose(keras.Model(inputs, x)(scan), expected, rtol=1e-4, atol=1e-4)


def test_a_single_channel_is_all_three_colours_and_vgg16_fills_what_it_can_of_vgg19(tmp_path):
    ours = dist_fcn(channels=1, encoder="vgg19")
    carried = carry_over(ours, as_keras_3(vgg((2, 2, 3, 3, 3)), tmp_path / "vgg.h5"))
    np.testing.assert_allclose(kernel(ours, "bgr")[0, 0], [[57.4 / 57.6, 57.1 / 57.6, 58.4 / 57.6]], rtol=1e-6)
    assert [name for name in carried.fresh if name.startswith("encoder")] == [f"encoder_{b}_conv_4" for b in (3, 4, 5)]
    assert str(carried).startswith(f"{tmp_path / 'vgg.weights.h5'}: 13 layers carried over; adapted: bgr (1 ")
    assert "encoder_5_conv_4, head_conv_1" in str(carried) and "(not in the file)" in str(carried)


@pytest.mark.parametrize("normalization", ["window", "percentile"])
def test_scans_from_0_to_1_give_what_colours_to_255_less_their_mean_give_in_vgg(tmp_path, normalization):
    theirs, ours = vgg((2, 2, 3, 3, 3)), dist_fcn(channels=3)
    carried = carry_over(ours, as_keras_3(theirs, tmp_path / "vgg.h5"), normalization)
    assert "3 channels of 0 to 1, less ImageNet's mean, to VGG's blue, green, red" in str(carried)
    scan = RNG.uniform(0, 1, (1, 8, 8, 3)).astype(np.float32)
    colours = 255 * scan[..., ::-1] - np.float32([103.939, 116.779, 123.68])
    found = ours.get_layer("encoder_1_conv_1")(ours.get_layer("bgr")(scan))
    expected = keras.ops.convert_to_numpy(theirs.get_layer("block1_conv1")(colours)) / 57.6
    inside = np.s_[:, 1:-1, 1:-1]  # where nothing is padded
    assert expected.max() > 1
    np.testing.assert_allclose(found[inside], expected[inside], rtol=1e-4, atol=1e-4)


def test_intensities_of_no_known_range_are_refused_for_vgg_and_no_other(tmp_path):
    with pytest.raises(InputError, match=r"a known range; set .* to zscore, percentile or window"):
        carry_over(dist_fcn(), as_keras_3(vgg((2, 2, 3, 3, 3)), tmp_path / "vgg.h5"), "none")
    assert carry_over(dist_fcn(), as_model(dist_fcn(), tmp_path / "own"), "none").whole


def test_layers_that_stand_still_as_they_were_drawn_are_said(tmp_path):
    file = as_keras_3(vgg((2, 2, 3, 3, 3)), tmp_path / "vgg.h5")
    frozen = config.Freeze(layers=("encoder",), until_epoch=1)
    carried = carry_over(dist_fcn(encoder="vgg19"), file, frozen=frozen)
    assert carried.still == ("encoder_3_conv_4", "encoder_4_conv_4", "encoder_5_conv_4")
    assert str(carried).endswith("; frozen as they were drawn: encoder_3_conv_4, encoder_4_conv_4, encoder_5_conv_4")
    assert carry_over(dist_fcn(), file, frozen=frozen).still == ()


@pytest.mark.parametrize("written", [as_keras_3, as_model])
@pytest.mark.parametrize(
    "network",
    [
        partial(dist_unet, normalization="batch", residual=True, dropout=0.5),
        partial(dist_unet, normalization="group"),
        dist_fcn,
    ],
)
def test_a_network_of_ours_is_carried_over_whole(tmp_path, network, written):
    theirs, ours = randomized(network()), randomized(network())
    carried = carry_over(ours, written(theirs, tmp_path / "model"))
    assert not carried.fresh and not carried.adapted and not carried.unused
    images = RNG.normal(0, 1, (2, 8, 8, 1)).astype(np.float32)
    found, expected = (keras.ops.convert_to_numpy(model(images)) for model in (ours, theirs))
    assert np.ptp(expected) > 0.01
    np.testing.assert_array_equal(found, expected)


def test_another_number_of_classes_leaves_the_scores_fresh_and_says_so(tmp_path):
    ours = dist_unet(classes=5)
    before = kernel(ours, "logits")
    carried = carry_over(ours, as_model(randomized(dist_unet(classes=2)), tmp_path / "model"))
    assert carried.fresh == {"logits": "1x1x3x2 + 2 there, 1x1x3x5 + 5 here"}
    assert len(carried.whole) == len([layer for layer in ours.layers if layer.get_weights()]) - 1
    np.testing.assert_array_equal(kernel(ours, "logits"), before)


def test_what_the_network_lacks_is_said(tmp_path):
    carried = carry_over(dist_unet(depth=1), as_model(dist_unet(depth=2), tmp_path / "model"))
    assert "encoder_2_conv_1" in carried.unused and "decoder_2_up" in carried.unused
    assert f"not used: {', '.join(carried.unused)}" in str(carried)


@pytest.mark.parametrize("residual", [False, True])
def test_kernels_of_three_channels_are_summed_for_one(tmp_path, residual):
    theirs, ours = (
        randomized(dist_unet(channels=3, filters=4, residual=residual)),
        dist_unet(channels=1, filters=4, residual=residual),
    )
    carried = carry_over(ours, as_model(theirs, tmp_path / "model"))
    expected = {"encoder_1_conv_1", "encoder_1_shortcut"} if residual else {"encoder_1_conv_1"}
    assert set(carried.adapted) == expected and not carried.fresh
    assert carried.adapted["encoder_1_conv_1"] == "3 channels there, 1 here"
    summed = kernel(theirs, "encoder_1_conv_1").sum(axis=2, keepdims=True)
    np.testing.assert_allclose(kernel(ours, "encoder_1_conv_1"), summed, rtol=1e-5)
    scan = RNG.normal(0, 1, (1, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(ours(scan), theirs(np.repeat(scan, 3, axis=3)), rtol=1e-3, atol=1e-5)


def test_channels_take_turns_in_kernels_of_fewer(tmp_path):
    theirs, ours = randomized(dist_unet(channels=2)), dist_unet(channels=3)
    carry_over(ours, as_model(theirs, tmp_path / "model"))
    first, second = np.moveaxis(kernel(theirs, "encoder_1_conv_1"), 2, 0)
    expected = np.stack([first / 2, second, first / 2], axis=2)
    np.testing.assert_allclose(kernel(ours, "encoder_1_conv_1"), expected, rtol=1e-6)


def test_a_fcn_of_other_channels_has_their_map_with_the_factors_of_the_old_one(tmp_path):
    theirs, ours = dist_fcn(channels=1), dist_fcn(channels=4)
    theirs.get_layer("bgr").set_weights([np.float32([[[[5, 6, 7]]]])])
    carried = carry_over(ours, as_model(theirs, tmp_path / "model"))
    assert carried.adapted == {"bgr": "1 channels there, 4 here"}
    np.testing.assert_allclose(kernel(ours, "bgr")[0, 0], [[0, 0, 3.5], [0, 6, 0], [5, 0, 0], [0, 0, 3.5]])


def test_a_file_that_does_not_fit_at_all_is_refused_with_what_it_has(tmp_path):
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="guess")])
    with pytest.raises(InputError, match="no layer of it fits this network; it has guess") as caught:
        carry_over(dist_unet(), as_keras_3(other, tmp_path / "other"))
    assert "other.weights.h5" in str(caught.value)
    # VGG into a U-Net: the names differ, and so does what they expect.
    with pytest.raises(InputError, match="no layer of it fits"):
        carry_over(dist_unet(channels=3), as_keras_2(vgg((2, 2, 3, 3, 3)), tmp_path / "vgg.h5"))


def test_what_is_no_weights_file_is_refused_in_one_line(tmp_path):
    for name, content in {"text.h5": b"weights", "empty.keras": b""}.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme", "no weights")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = [1, 2]
    for name in ("text.h5", "empty.keras", "other.keras", "other.h5", "none.h5"):
        with pytest.raises(InputError) as caught:
            carry_over(dist_unet(), tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Keras' address, played by a server of ours that has a small VGG-16; and how often it was asked."""
    folder = tmp_path / "served" / "vgg16"
    folder.mkdir(parents=True)
    name = weights.IMAGENET["vgg16"][0]
    content = as_keras_2(vgg((2, 2, 3, 3, 3)), folder / name).read_bytes()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder.parent)

        def log_message(self, *_):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        monkeypatch.setattr(weights, "ADDRESS", f"http://127.0.0.1:{served.server_port}")
        monkeypatch.setitem(weights.IMAGENET, "vgg16", (name, hashlib.md5(content).hexdigest()))
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield asked
        served.shutdown()


def test_imagenets_weights_are_fetched_once_verified_and_fit(tmp_path, server, capsys):
    file = weights.imagenet("vgg16", tmp_path / "store" / "weights")
    assert file == tmp_path / "store" / "weights" / weights.IMAGENET["vgg16"][0] and len(server) == 1
    assert len(carry_over(dist_fcn(), file).whole) == 13
    assert weights.imagenet("vgg16", file.parent) == file and len(server) == 1
    file.write_bytes(b"half of i")  # cut off: fetched again
    assert weights.imagenet("vgg16", file.parent) == file and len(server) == 2
    assert len(carry_over(dist_fcn(), file).whole) == 13
    assert capsys.readouterr().out == ""


def test_another_file_than_keras_own_is_refused(tmp_path, server, monkeypatch):
    monkeypatch.setitem(weights.IMAGENET, "vgg16", (weights.IMAGENET["vgg16"][0], "0" * 32))
    with pytest.raises(WorkFailed, match="hash does not match"):
        weights.imagenet("vgg16", tmp_path / "store")


def test_an_address_that_cannot_be_reached_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(WorkFailed, match=r"give its path as model\.weights") as caught:
        weights.imagenet("vgg19", tmp_path / "store")
    assert "\n" not in str(caught.value) and "http://127.0.0.1:1/vgg19/vgg19_weights" in str(caught.value)


def test_addresses_and_sums_are_those_of_the_installed_keras():
    import importlib
    import inspect

    for encoder, (name, md5) in weights.IMAGENET.items():
        source = inspect.getsource(importlib.import_module(f"keras.src.applications.{encoder}"))
        assert name in source and md5 in source and f"{weights.ADDRESS.rsplit('/', 1)[1]}/{encoder}/" in source
