"""Networks by name, their losses, the precision that they compute in, what they start from and what of them learns."""

from collections.abc import Callable
from typing import Any

import keras

from r2d2 import config
from r2d2.models import fcn, unet

NETWORKS: dict[str, Callable[[Any, int, int, tuple[int, int]], keras.Model]] = {
    "dist-unet": unet.build,
    "dist-fcn": fcn.build,
}
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


def freeze(model: keras.Model, settings: config.Freeze | None, epoch: int) -> list[keras.Variable]:
    """Set which blocks of a network learn in an epoch, and return the variables that do.

    What stands still has no gradient, is not decayed (it is not handed to the optimizer) and, where it normalizes by
    batches, uses its moving averages and leaves them alone. Layers look at this when a function is traced, so that a
    step is to be built anew when it changes, which it does once, at `settings.until_epoch`.

    Args:
        model: As `build` makes it, or a copy in another precision.
        settings: The experiment's `model.freeze`.
        epoch: Counted from 0; the result depends on nothing else that happened before.
    """
    if settings is not None:
        for layer in model.layers:
            if settings.holds(layer.name):
                layer.trainable = epoch >= settings.until_epoch
    return model.trainable_variables


def moving_averages(model: keras.Model) -> list[keras.Variable]:
    """What a network's batch normalizations use in prediction: every one's moving mean and variance.

    Each logical worker moves its own, from its own minibatches. They move linearly, so that the mean over the workers
    is that of all minibatches, whenever it is taken.
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]
