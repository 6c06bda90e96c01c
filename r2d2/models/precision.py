"""bfloat16 where the hardware computes in it, with the saved model left plain float32."""

from pathlib import Path

import keras
import tensorflow as tf

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
    return "bfloat16" if BFLOAT16_FLAGS & _processor_flags() else "float32"


def with_precision(model: keras.Model, precision: str) -> keras.Model:
    """A copy of a float32 model that computes in `precision`; variables, scores, logits and probabilities stay float32.

    The copy has variables of its own, set to the model's values. Keras' own normalizations take their means, variances
    and quotients in float32 whatever the precision.
    """
    if precision == "float32":
        return model
    description = model.get_config()
    for layer in description["layers"]:
        if not layer["name"].startswith(FLOAT32):
            layer["config"]["dtype"] = f"mixed_{precision}" if layer["class_name"] != "InputLayer" else "float32"
    copy = model.__class__.from_config(description)
    copy.set_weights(model.get_weights())
    return copy


def _processor_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = (line for line in text.splitlines() if line.startswith("flags"))
    return set(next(lines, "").partition(":")[2].split())
