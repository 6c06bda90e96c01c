"""A saved model in a process that knows Keras alone."""

import subprocess
import sys

import keras
import numpy as np

LOAD = """
import sys
import keras, numpy
model = keras.saving.load_model(sys.argv[1], compile=False, safe_mode=True)
numpy.save(sys.argv[3], keras.ops.convert_to_numpy(model(numpy.load(sys.argv[2]), training=False)))
assert not [name for name in sys.modules if name.split(".")[0] in ("r2d2", "horovod")]
assert {layer.__module__.split(".")[0] for layer in model.layers} == {"keras"}
"""


def predict_elsewhere(model: keras.Model, images: np.ndarray, folder) -> np.ndarray:
    """What the model predicts once it is saved and loaded again by a process without R2D2."""
    model.save(folder / "model.keras")
    np.save(folder / "images.npy", images)
    files = [str(folder / name) for name in ("model.keras", "images.npy", "probabilities.npy")]
    subprocess.run([sys.executable, "-c", LOAD, *files], check=True, cwd=folder)
    return np.load(files[2])
