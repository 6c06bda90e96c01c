"""What is otherwise on a machine with GPUs; `test_ring.py` runs over NCCL there, too."""

import subprocess
import sys
from pathlib import Path

import horovod.runner
import horovod.tensorflow as hvd
import numpy as np
import pytest
import tensorflow as tf
import yaml
from helpers.ranks import sum_on_gpu

from r2d2.config import load
from r2d2.engine.train import train
from r2d2.tracking import store
from r2d2.training import step as step_module

pytestmark = pytest.mark.skipif(
    not tf.config.list_physical_devices("GPU"), reason="TensorFlow sees no GPU on this machine"
)

PINNED = """
import sys
import tensorflow as tf
from r2d2.training import device
device.use_gpu(int(sys.argv[1]))
tf.zeros(1)
(logical,) = tf.config.list_logical_devices("GPU")
mine = tf.config.get_visible_devices("GPU")
print(*(one.name for one in mine), tf.config.experimental.get_memory_growth(mine[0]))
"""


@pytest.mark.parametrize("local_rank", [0, 1])
def test_a_worker_takes_the_gpu_of_its_local_number_and_of_it_what_it_needs(local_rank):
    there = tf.config.list_physical_devices("GPU")
    done = subprocess.run([sys.executable, "-c", PINNED, str(local_rank)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [there[local_rank % len(there)].name, "True"]


def test_gradients_on_a_gpu_are_summed_there_over_nccl():
    assert hvd.nccl_built()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent), prepend=":")
        of_ranks = horovod.runner.run(sum_on_gpu, num_proc=2, use_gloo=True)
    for (ones, first), (thousands, second) in of_ranks:
        assert np.all(ones == 1) and np.all(thousands == 2000) and thousands.shape == (3, 5)
        assert "GPU" in first and "GPU" in second


def busy(matrix, times):
    """A GPU's work: so many products of large matrices."""
    for _ in range(times):
        matrix = tf.matmul(matrix, matrix) * 1e-3
    return matrix


def test_the_time_of_the_ring_begins_when_the_gpu_has_computed_and_not_when_it_was_told_to():
    matrix = tf.random.stateless_normal((4096, 4096), (1, 2))

    @tf.function
    def clocks(before, after):
        computed = busy(matrix, before)
        start = step_module._now(after=[computed])
        summed = busy(computed, after)
        return start, step_module._now(after=[summed])

    long, short = tf.constant(60), tf.constant(1)

    def waited(before, after):
        times = []
        for _ in range(3):
            start, end = clocks(before, after)
            times.append(float(end - start))
        return min(times)

    assert waited(long, short) < 0.2 * waited(short, long)


@pytest.fixture(scope="module")
def trained(virtual_patients, tmp_path_factory):
    """A run of the default cluster settings, of two epochs; its MLflow run."""
    folder = tmp_path_factory.mktemp("gpu")
    file = folder / "gpu.yaml"
    values = {
        "name": "gpu",
        "data": {"path": str(virtual_patients)},
        "preprocess": {"image_size": [48, 56], "slices": {"count": 8, "choice": "foreground"}},
        "model": {"filters": 8, "depth": 2, "normalization": "batch"},
        "training": {"epochs": 2, "batch_size": 4},
        "evaluation": {"overlays": 0},
    }
    file.write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2D2_HOME", str(folder / "home"))
        done = train(load(file))
        return store.connect(store.resolve()).get_run(done.run_id)


def test_a_run_takes_the_gpu_unless_it_is_told_otherwise_and_says_what_it_took_of_it(trained):
    metrics = trained.data.metrics
    assert trained.data.tags["r2d2.computed_on"] == "GPU, XLA"
    assert metrics["cost/gpu_hours"] > 0 and metrics["cost/gpu_kwh"] > 0
    assert any("gpu_0_memory_usage" in name for name in metrics)
