"""bfloat16 where the hardware computes in it, with the saved model left plain float32."""

import keras
import tensorflow as tf

from r2d2.kernels import processor_flags
from r2d2.models import fused

FLOAT32 = ("score", "logits", "probabilities")
"""How the names of layers begin that compute in float32 everywhere: classes' scores, and what is made of them."""
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
"""Processor flags (Linux names) that say that bfloat16 products are computed in hardware."""


def choose(precision: str) -> str:
    """`float32` or `bfloat16` for this process; `auto` asks the GPU, if TensorFlow sees one, else the processor."""
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return "bfloat16" if capability >= (8, 0) else "float32"
    return "bfloat16" if BFLOAT16_FLAGS & processor_flags() else "float32"


def with_precision(model: keras.Model, precision: str, fuse: bool = True) -> keras.Model:
    """A copy of a float32 model that computes in `precision`; variables, scores, logits and probabilities stay float32.

    The copy has variables of its own, set to the model's values. Keras' own normalizations take their means, variances
    and quotients in float32 whatever the precision.

    Args:
        model: The model, of Keras' layers.
        precision: `float32`, which is what the model itself has, or `bfloat16`.
        fuse: On CPUs, take the layers of `r2d2.models.fused` in the place of Keras' own. XLA knows nothing of them.

    Returns:
        The copy, or the model itself where it would have the same layers.
    """
    fuse = fuse and not tf.config.list_physical_devices("GPU")
    if precision == "float32" and not fuse:
        return model
    description = model.get_config()
    for layer in description["layers"]:
        single = layer["class_name"] == "InputLayer" or layer["name"].startswith(FLOAT32)
        if precision != "float32":
            layer["config"]["dtype"] = "float32" if single else f"mixed_{precision}"
        if fuse and (name := fused.replacement(layer, precision, single)):
            layer |= {"class_name": name, "module": fused.__name__, "registered_name": name}
    copy = model.__class__.from_config(description, custom_objects=fused.LAYERS)
    copy.set_weights(model.get_weights())
    return copy
