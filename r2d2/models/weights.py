"""Transfer learning: what fits of a weights file is carried over into a network, and what does not is said.

Layers are matched by name. A file is one of ours (`.keras`, `.weights.h5`), or of Keras' own VGG: those layers are
renamed, their biases scaled, and the network's `bgr` layer makes of scans what they expect (see `r2d2.models.fcn`).
Everything in it is read as arrays; nothing is run or unpickled.
"""

import contextlib
import io
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import keras
import numpy as np

from r2d2 import config
from r2d2.errors import InputError, WorkFailed
from r2d2.models import fcn

ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications"
IMAGENET = {
    "vgg16": ("vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc"),
    "vgg19": ("vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", "253f8cb515780f3b799900260a226db6"),
}
"""Keras' own files of VGG's convolutions, trained on ImageNet by Oxford's VGG (CC BY 4.0), with their MD5 sums."""
ENTRANCES = ("bgr", "encoder_1_conv_1", "encoder_1_shortcut")
"""Layers that see the image, so that their kernels depend on its number of channels."""

Layers = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Carried:
    """What `carry_over` did.

    Attributes:
        source: The file.
        whole: The layers that have the file's weights (of VGG, with scaled biases).
        adapted: Layer -> how the file's weights were changed to fit.
        fresh: Layer -> why it keeps the values it started with.
        unused: The file's layers that the network lacks.
        still: The fresh layers that stand still at first all the same.
    """

    source: str
    whole: tuple[str, ...]
    adapted: dict[str, str]
    fresh: dict[str, str]
    unused: tuple[str, ...]
    still: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line, such as `vgg16.h5: 13 layers carried over; adapted: bgr (...); fresh: head_conv_1 (...)`."""
        text = f"{self.source}: {len(self.whole)} layers carried over"
        for title, layers in (("adapted", self.adapted), ("fresh", self.fresh)):
            if layers:
                hows = {how: ", ".join(name for name in layers if layers[name] == how) for how in layers.values()}
                text += f"; {title}: " + "; ".join(f"{names} ({how})" for how, names in hows.items())
        for title, names in (("frozen as they were drawn", self.still), ("not used", self.unused)):
            text += f"; {title}: {', '.join(names)}" if names else ""
        return text


def imagenet(encoder: str, folder: Path) -> Path:
    """The file of an encoder's weights from ImageNet, fetched into `folder` unless it is there, its MD5 sum compared.

    Args:
        encoder: `vgg16` or `vgg19`.
        folder: Where it lies, or will; it is made if need be.

    Raises:
        WorkFailed: It cannot be fetched, or is another file than Keras'.
    """
    name, md5 = IMAGENET[encoder]
    address = f"{ADDRESS}/{encoder}/{name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # its progress
            return Path(
                keras.utils.get_file(name, address, file_hash=md5, cache_dir=folder.parent, cache_subdir=folder.name)
            )
    except Exception as error:  # what Keras raises when an address cannot be reached
        raise WorkFailed(
            f"model.weights imagenet: {address} cannot be fetched ({' '.join(str(error).split())[:200]}); fetch it "
            "elsewhere and give its path as model.weights"
        ) from None


def carry_over(
    model: keras.Model, file: Path, normalization: str = "zscore", frozen: config.Freeze | None = None
) -> Carried:
    """Set the layers of a network to a file's weights where name and shape agree, and return what was done.

    Kernels that see the image are made to fit another number of channels: each of the file's channels is the mean of
    the scan's channels of its turn (`r2d2.models.fcn.turns`). So for scans of one channel the file's kernels are
    summed, for n instead of one they are divided by n, and channels that are all alike give what they gave.

    Args:
        model: As `models.build` makes it.
        file: `.keras`, `.weights.h5` or Keras 2's `.h5`.
        normalization: What `preprocess.normalization` makes of the scans.
        frozen: What stands still at first.

    Raises:
        InputError: It is no such file, nothing in it fits, or it is VGG's and the scans' intensities are as they are.
    """
    theirs = _read(file)
    vgg = "block1_conv1" in theirs and any(layer.name == "bgr" for layer in model.layers)
    theirs = dict(_renamed(name, arrays) for name, arrays in theirs.items()) if vgg else theirs
    factors, scans = np.array(fcn.DEVIATIONS), "z-scored channels"
    if vgg and normalization == "none":
        raise InputError(
            f"model.weights {file}: VGG's expect intensities of a known range; set preprocess.normalization to zscore, "
            "percentile or window"
        )
    if vgg and normalization != "zscore":
        factors, scans = np.full(3, 255.0), "channels of 0 to 1, less ImageNet's mean,"
        kernel, bias = theirs["encoder_1_conv_1"]
        bias -= np.einsum("hwcf,c->f", kernel, np.divide(fcn.MEANS, fcn.SCALE)).astype(bias.dtype)

    whole, adapted, fresh = [], {}, {}
    ours = [layer for layer in model.layers if layer.get_weights()]
    for layer in ours:
        present = _values(layer)
        if layer.name == "bgr" and vgg:
            channels = present[0].shape[2]
            layer.set_weights([fcn.colours(channels, factors / fcn.SCALE)])
            adapted["bgr"] = f"{channels} {scans} to VGG's blue, green, red, all divided by {fcn.SCALE}"
            continue
        given = theirs.get(layer.name)
        if given is None:
            fresh[layer.name] = "not in the file"
            continue
        fitting = _fitted(layer.name, given, present) if layer.name in ENTRANCES else given
        if [array.shape for array in fitting] != [array.shape for array in present]:
            fresh[layer.name] = f"{_shapes(given)} there, {_shapes(present)} here"
            continue
        layer.load_own_variables({str(number): array for number, array in enumerate(fitting)})
        if fitting is given:
            whole.append(layer.name)
        else:
            adapted[layer.name] = f"{given[0].shape[2]} channels there, {present[0].shape[2]} here"
    if not any(name != "bgr" for name in (*whole, *adapted)):
        raise InputError(
            f"model.weights {file}: no layer of it fits this network; it has {', '.join(theirs) or 'none'}"
        )
    unused = theirs.keys() - {layer.name for layer in ours}
    still = tuple(name for name in fresh if frozen and frozen.holds(name))
    return Carried(str(file), tuple(whole), adapted, fresh, tuple(name for name in theirs if name in unused), still)


def _renamed(name: str, arrays: list[np.ndarray]) -> tuple[str, list[np.ndarray]]:
    """A layer of Keras' VGG as Dist-FCN's encoder has it: its bias is for colours divided by `SCALE`."""
    ours, is_ours = re.subn(r"^block(\d)_conv(\d)$", r"encoder_\1_conv_\2", name)
    return (ours, [arrays[0], arrays[1] / np.float32(fcn.SCALE)]) if is_ours else (name, arrays)


def _values(layer: keras.Layer) -> list[np.ndarray]:
    """A layer's weights in the order in which files have them."""
    store: dict[str, keras.Variable] = {}
    layer.save_own_variables(store)
    return [keras.ops.convert_to_numpy(variable) for variable in store.values()]


def _fitted(name: str, given: list[np.ndarray], present: list[np.ndarray]) -> list[np.ndarray]:
    """The given weights with a kernel for as many channels as are present; the given list itself where they agree."""
    kernel, channels = given[0], present[0].shape[2]
    if kernel.ndim != 4 or kernel.shape[2] == channels:
        return given
    if name == "bgr":  # the map of as many channels, with the factors of the file's
        return [fcn.colours(channels, kernel.sum(axis=(0, 1, 2)))]
    return [np.einsum("ct,hwtf->hwcf", fcn.turns(channels, kernel.shape[2]), kernel), *given[1:]]


def _shapes(arrays: list[np.ndarray]) -> str:
    return " + ".join("x".join(map(str, array.shape)) for array in arrays)


def _read(file: Path) -> Layers:
    """Every layer's arrays in a weights file, by the layer's name."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                content: Path | io.BytesIO = io.BytesIO(archive.read("model.weights.h5"))
        else:
            content = file
        with h5py.File(content) as stored:
            layers = _legacy(stored) if "layer_names" in stored.attrs else _keras_3(stored)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"model.weights {file}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    return {name: arrays for name, arrays in layers.items() if arrays}


def _keras_3(stored: h5py.File) -> Layers:
    layers: Layers = {}

    def visit(path: str, found: h5py.Group) -> None:
        if path.startswith("layers/") and path.count("/") == 2 and path.endswith("/vars") and "name" in found.attrs:
            layers[str(found.attrs["name"])] = [found[str(number)][()] for number in range(len(found))]

    stored.visititems(visit)
    return layers


def _legacy(stored: h5py.File) -> Layers:
    """Keras 2's layout: a group for each layer, which lists its arrays."""
    return {
        _text(name): [stored[_text(name)][_text(weight)][()] for weight in stored[_text(name)].attrs["weight_names"]]
        for name in stored.attrs["layer_names"]
    }


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
