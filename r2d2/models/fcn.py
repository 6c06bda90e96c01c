"""Dist-FCN: VGG's encoder, whose scores of classes are brought back to the image's size (Long et al. 2015).

The encoder is that of Simonyan and Zisserman (2015), so that its weights from ImageNet fit. They expect colours in the
order blue, green, red, from 0 to 255, less ImageNet's mean: numbers of mean 0 and of the deviations in `DEVIATIONS`.
Scans with `normalization: zscore` have mean 0 and deviation 1. So the map from one to the other is a factor for each
colour, without a constant:

- of 3 channels, or n: red is the mean of channels 0, 3, 6, ..., green of 1, 4, ..., blue of 2, 5, ...;
- of 1 channel: it is all three colours; of 2: the first is red and blue, the second green;
- blue times 57.4, green times 57.1, red times 58.4.

Scans with `percentile` or `window` go from 0 to 1, as colours do from 0 to 255: the factor is 255, and ImageNet's mean,
`MEANS`, is taken off in the bias of the first convolution. That is the same but where it pads: black is there instead
of the mean.

VGG as it is answers such numbers with activations in the thousands, which plain gradient descent diverges from at any
usual rate. Convolutions with ReLU and max-pooling let a factor through: with colours and biases all divided by
`SCALE`, every activation is exactly VGG's divided by `SCALE`. That is how its weights are carried over
(`r2d2.models.weights`): the kernel of the 1x1 convolution `bgr` holds the map divided by `SCALE`, with factors close to
1, VGG's kernels are as they are, its biases are divided. In a network that starts at random the factors are 1.

Up to three channels the map loses nothing and stays as it is. Of more than three it is where training starts, and
learns.
"""

from collections.abc import Sequence

import keras
import numpy as np

from r2d2 import config
from r2d2.models.padding import margins

CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions in each of an encoder's five blocks."""
FILTERS = (64, 128, 256, 512, 512)
"""Filters in each of the five blocks."""
DEVIATIONS = (57.4, 57.1, 58.4)
"""Standard deviations of ImageNet's blue, green and red, of 0 to 255: 255 x (0.225, 0.224, 0.229)."""
MEANS = (103.939, 116.779, 123.68)
"""ImageNet's mean blue, green and red, of 0 to 255."""
SCALE = 57.6
"""The mean of the deviations: what VGG's activations are divided by."""


def build(model: config.DistFCN, num_channels: int, num_classes: int, image_size: tuple[int, int]) -> keras.Model:
    """VGG's five blocks, a head of a 7x7 and a 1x1 convolution, and scores enlarged by transposed convolutions.

    Each of `model.stride` 16 and 8 adds the scores of one more pooling, the fourth's and the third's. Transposed
    convolutions start as bilinear interpolation; the last one stays so, as in the original. Scores start at zero:
    a new network finds all classes alike, and the added scores leave unchanged what they are added to. See
    `r2d2.models.build` for shapes.
    """
    missing = margins(image_size, 32)
    inputs = keras.Input((*image_size, num_channels), name="image")
    x = keras.layers.ZeroPadding2D(missing, name="pad")(inputs) if any(map(any, missing)) else inputs
    x = keras.layers.Conv2D(3, 1, use_bias=False, trainable=num_channels > 3, name="bgr")(x)

    pooled = {}  # by their stride
    for block, (count, filters) in enumerate(zip(CONVOLUTIONS[model.encoder], FILTERS, strict=True), start=1):
        for number in range(1, count + 1):
            x = _convolution(x, filters, 3, f"encoder_{block}_conv_{number}")
        x = pooled[2**block] = keras.layers.MaxPooling2D(2, name=f"encoder_{block}_pool")(x)

    for number, size in ((1, 7), (2, 1)):
        x = _convolution(x, model.head_width, size, f"head_conv_{number}")
        x = keras.layers.Dropout(model.dropout, name=f"head_dropout_{number}")(x) if model.dropout else x

    x = _scores(x, num_classes, 32)
    for stride in (stride for stride in (16, 8) if stride >= model.stride):
        x = _enlarged(x, num_classes, 2, f"score_{2 * stride}_up")
        x = keras.layers.Add(dtype="float32", name=f"score_{stride}_sum")(
            [x, _scores(pooled[stride], num_classes, stride)]
        )
    x = _enlarged(x, num_classes, model.stride, f"score_{model.stride}_up", trainable=False)
    x = keras.layers.Cropping2D(missing, dtype="float32", name="logits")(x)
    network = keras.Model(inputs, keras.layers.Softmax(dtype="float32", name="probabilities")(x), name="dist_fcn")

    network.get_layer("bgr").set_weights([colours(num_channels)])
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2DTranspose):
            layer.set_weights([_bilinear(layer.strides[0], num_classes)])
    return network


def turns(channels: int, parts: int) -> np.ndarray:
    """How channels are dealt out to parts, each part the mean of its own: (channels, parts) float32.

    Part k has channels k, k + parts, k + 2 parts, ...; of fewer channels than parts, channel k modulo their number.
    """
    shares = np.zeros((channels, parts), np.float32)
    for part in range(parts):
        mine = range(part, channels, parts) or range(part % channels, part % channels + 1)
        shares[mine, part] = 1 / len(mine)
    return shares


def colours(channels: int, factors: Sequence[float] | np.ndarray = (1.0, 1.0, 1.0)) -> np.ndarray:
    """The kernel from channels to blue, green and red, times a factor each: (1, 1, channels, 3) float32."""
    return (turns(channels, 3)[:, ::-1] * np.asarray(factors, np.float32))[np.newaxis, np.newaxis]


def _convolution(x: keras.KerasTensor, filters: int, size: int, name: str) -> keras.KerasTensor:
    return keras.layers.Conv2D(
        filters, size, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )(x)


def _scores(x: keras.KerasTensor, num_classes: int, stride: int) -> keras.KerasTensor:
    """Scores of the classes; they and all that follows are few numbers, kept in float32."""
    return keras.layers.Conv2D(num_classes, 1, kernel_initializer="zeros", dtype="float32", name=f"score_{stride}")(x)


def _enlarged(x: keras.KerasTensor, num_classes: int, by: int, name: str, trainable: bool = True) -> keras.KerasTensor:
    return keras.layers.Conv2DTranspose(
        num_classes,
        2 * by,
        strides=by,
        padding="same",
        use_bias=False,
        kernel_initializer="zeros",  # until the network is built: an initializer of ours would not load without R2D2
        trainable=trainable,
        dtype="float32",
        name=name,
    )(x)


def _bilinear(by: int, num_classes: int) -> np.ndarray:
    """The kernel that enlarges each class by itself, (2 by, 2 by, num_classes, num_classes) float32.

    Along an axis it is a triangle, (0.25, 0.75, 0.75, 0.25) for twice the size: centres of pixels stay where they are.
    """
    triangle = 1 - np.abs(np.arange(2 * by) - (by - 0.5)) / by
    square = np.outer(triangle, triangle)[:, :, np.newaxis, np.newaxis]
    return (square * np.eye(num_classes)).astype(np.float32)
