"""Dist-U-Net: an encoder and a decoder joined at every level by concatenation (Ronneberger et al. 2015)."""

import keras

from r2d2 import config


def build(model: config.Model, num_channels: int, num_classes: int, image_size: tuple[int, int]) -> keras.Model:
    """A U-Net of `model.depth` poolings whose first level has `model.filters` filters, doubled at each further one.

    Two 3x3 convolutions with ReLU a level, 2x2 max-pooling down, 2x2 transposed convolutions up; dropout, if any,
    after the two deepest levels, as in the original. See `r2d2.models.build` for shapes.
    """
    height, width = image_size
    multiple = 2**model.depth
    rows, columns = _margins(height, multiple), _margins(width, multiple)

    inputs = keras.Input((height, width, num_channels), name="image")
    x = keras.layers.ZeroPadding2D((rows, columns), name="pad")(inputs) if any(rows + columns) else inputs

    skips = []
    for level in range(1, model.depth + 1):
        x = _two_convolutions(x, model.filters * 2 ** (level - 1), f"encoder_{level}")
        if level == model.depth:
            x = _dropout(x, model.dropout, f"encoder_{level}")
        skips.append(x)
        x = keras.layers.MaxPooling2D(2, name=f"encoder_{level}_pool")(x)

    x = _two_convolutions(x, model.filters * multiple, "bottom")
    x = _dropout(x, model.dropout, "bottom")

    for level in range(model.depth, 0, -1):
        filters = model.filters * 2 ** (level - 1)
        x = keras.layers.Conv2DTranspose(
            filters, 2, strides=2, kernel_initializer="he_normal", name=f"decoder_{level}_up"
        )(x)
        x = keras.layers.Concatenate(name=f"decoder_{level}_skip")([skips[level - 1], x])
        x = _two_convolutions(x, filters, f"decoder_{level}")

    # Sums over pixels need float32 even where the rest computes in bfloat16.
    x = keras.layers.Conv2D(num_classes, 1, dtype="float32", name="logits")(_cropped(x, rows, columns))
    return keras.Model(inputs, keras.layers.Softmax(dtype="float32", name="probabilities")(x), name="dist_unet")


def _margins(size: int, multiple: int) -> tuple[int, int]:
    missing = -size % multiple
    return missing // 2, missing - missing // 2


def _cropped(x: keras.KerasTensor, rows: tuple[int, int], columns: tuple[int, int]) -> keras.KerasTensor:
    return keras.layers.Cropping2D((rows, columns), name="crop")(x) if any(rows + columns) else x


def _two_convolutions(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    for number in (1, 2):
        x = keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=f"{name}_conv_{number}"
        )(x)
    return x


def _dropout(x: keras.KerasTensor, rate: float, name: str) -> keras.KerasTensor:
    return keras.layers.Dropout(rate, name=f"{name}_dropout")(x) if rate else x
