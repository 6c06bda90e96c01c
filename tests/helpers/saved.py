"""A model's folder as MLflow keeps one, of a small network with random weights that nevertheless sees something."""

import keras
import numpy as np
import yaml

from r2d2 import config, models
from r2d2.inference import guard

LABELS = {0: "background", 1: "left", 2: "right"}
RUN = "0123456789abcdef0123456789abcdef"


def small_network(image_size=(24, 20), channels=1, seed=3):
    """A U-Net of two levels whose three classes all appear."""
    keras.utils.set_random_seed(seed)
    network = models.build(config.DistUNet(network="dist-unet", filters=4, depth=2), channels, len(LABELS), image_size)
    rng = np.random.default_rng(seed)
    for layer in network.layers:  # biases other than 0, so that a padded image is no plain one
        if len(layer.weights) == 2:
            layer.bias.assign(0.3 * rng.standard_normal(layer.bias.shape))
    # Scores about 0: each class has its places.
    images = rng.standard_normal((8, *image_size, channels)).astype(np.float32)
    scores = keras.ops.convert_to_numpy(models.logits(network)(images))
    last = network.get_layer("logits")
    last.kernel.assign(last.kernel * (3 / scores.std()))
    scores = keras.ops.convert_to_numpy(models.logits(network)(images))
    last.bias.assign(last.bias - np.median(scores, axis=(0, 1, 2)))
    return network


def experiment(**preprocess):
    """An experiment of such a network; `preprocess` are settings of that section."""
    return config.parse(
        yaml.safe_dump(
            {
                "name": "small",
                "data": {"path": "nowhere"},
                "preprocess": {"image_size": [24, 20]} | preprocess,
                "model": {"filters": 4, "depth": 2},
                "training": {"epochs": 1, "batch_size": 4, "precision": "float32"},
            }
        ),
        source="tests",
    )


def save_model(folder, network, values=None, ranges=None, channels=("0",)):
    """Write the folder; `ranges` as `guard.ranges` gives them."""
    values = values or experiment()
    known = {
        "experiment": values.to_yaml(),
        "labels": {str(value): name for value, name in LABELS.items()},
        "channels": list(channels),
        "split": {"training": [], "validation": [], "test": []},
        "contents": {},
    }
    if ranges is not None:
        known["ranges"] = ranges
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text(yaml.safe_dump({"run_id": RUN, "metadata": {"r2d2": known}}))
    network.save(folder / "data" / "model.keras")
    return folder


def ranges_of(spacing_mm, intensities, channel="0"):
    """Ranges of one training scan: its canonical spacing and its percentiles."""
    names = (f"p{percent}" for percent in guard.PERCENTILES)
    return {
        "spacing_mm": [[size, size] for size in spacing_mm],
        "intensities": {channel: {name: [value, value] for name, value in zip(names, intensities, strict=True)}},
    }
