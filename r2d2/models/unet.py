"""Dist-U-Net: an encoder and a decoder joined at every level by concatenation (Ronneberger et al. 2015)."""

import math

import keras

from r2d2 import config
from r2d2.models.padding import margins

GROUPS = 32
"""Groups of channels that are normalized together (Wu and He 2018), or as many as divide a level's filters."""


def build(model: config.DistUNet, num_channels: int, num_classes: int, image_size: tuple[int, int]) -> keras.Model:
    """A U-Net of `model.depth` poolings whose first level has `model.filters` filters, doubled at each further one.

    Two 3x3 convolutions with ReLU a level, 2x2 max-pooling down, 2x2 transposed convolutions up; dropout, if any,
    after the two deepest levels, as in the original. Normalization, if any, between a convolution and its ReLU; a
    residual level adds what enters it before its last ReLU, through a 1x1 convolution where the filters differ (He et
    al. 2016). See `r2d2.models.build` for shapes.
    """
    multiple = 2**model.depth
    missing = margins(image_size, multiple)

    inputs = keras.Input((*image_size, num_channels), name="image")
    x = keras.layers.ZeroPadding2D(missing, name="pad")(inputs) if any(map(any, missing)) else inputs

    skips = []
    for level in range(1, model.depth + 1):
        x = _level(x, model, model.filters * 2 ** (level - 1), f"encoder_{level}")
        if level == model.depth:
            x = _dropout(x, model.dropout, f"encoder_{level}")
        skips.append(x)
        x = keras.layers.MaxPooling2D(2, name=f"encoder_{level}_pool")(x)

    x = _level(x, model, model.filters * multiple, "bottom")
    x = _dropout(x, model.dropout, "bottom")

    for level in range(model.depth, 0, -1):
        filters = model.filters * 2 ** (level - 1)
        x = keras.layers.Conv2DTranspose(
            filters, 2, strides=2, kernel_initializer="he_normal", name=f"decoder_{level}_up"
        )(x)
        x = keras.layers.Concatenate(name=f"decoder_{level}_skip")([skips[level - 1], x])
        x = _level(x, model, filters, f"decoder_{level}")

    x = keras.layers.Cropping2D(missing, name="crop")(x) if any(map(any, missing)) else x
    # Sums over pixels need float32 even where the rest computes in bfloat16.
    x = keras.layers.Conv2D(num_classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(inputs, keras.layers.Softmax(dtype="float32", name="probabilities")(x), name="dist_unet")


def _level(x: keras.KerasTensor, model: config.DistUNet, filters: int, name: str) -> keras.KerasTensor:
    """Two convolutions. Where nothing comes between one and its ReLU, the convolution has it inside."""
    entered = x
    for number in (1, 2):
        adds = model.residual and number == 2
        plain = model.normalization == "none" and not adds
        x = keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            activation="relu" if plain else None,
            use_bias=model.normalization == "none",  # a normalization has its own
            kernel_initializer="he_normal",
            name=f"{name}_conv_{number}",
        )(x)
        x = _normalized(x, model.normalization, f"{name}_norm_{number}")
        if adds:
            if entered.shape[-1] != filters:
                entered = keras.layers.Conv2D(filters, 1, name=f"{name}_shortcut")(entered)
            x = keras.layers.Add(name=f"{name}_add")([entered, x])
        if not plain:
            x = keras.layers.ReLU(name=f"{name}_relu_{number}")(x)
    return x


def _normalized(x: keras.KerasTensor, normalization: str, name: str) -> keras.KerasTensor:
    if normalization == "group":
        return keras.layers.GroupNormalization(math.gcd(GROUPS, x.shape[-1]), name=name)(x)
    return keras.layers.BatchNormalization(name=name)(x) if normalization == "batch" else x


def _dropout(x: keras.KerasTensor, rate: float, name: str) -> keras.KerasTensor:
    return keras.layers.Dropout(rate, name=f"{name}_dropout")(x) if rate else x
