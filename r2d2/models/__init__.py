"""Networks by name, their losses, and the precision that they compute in."""

import keras

from r2d2 import config
from r2d2.models import unet

NETWORKS = {"dist-unet": unet.build}
"""Every network by the name it has in an experiment file."""


def build(model: config.Model, num_channels: int, num_classes: int, image_size: tuple[int, int]) -> keras.Model:
    """The network of an experiment, freshly initialized, of plain Keras layers in float32.

    Args:
        model: The experiment's `model` section.
        num_channels: Channels of an image.
        num_classes: Classes, the background included.
        image_size: Rows and columns; any numbers, the network pads to its multiple inside and crops back.

    Returns:
        A model from images (N, rows, columns, num_channels) float32 to class probabilities (N, rows, columns,
        num_classes) float32. Its layer `logits` gives the values before the softmax, which losses are computed from.
    """
    return NETWORKS[model.network](model, num_channels, num_classes, image_size)


def logits(model: keras.Model) -> keras.Model:
    """The same network, weights shared, up to the values before the softmax."""
    return keras.Model(model.input, model.get_layer("logits").output, name=f"{model.name}_logits")
