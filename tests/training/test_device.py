from types import SimpleNamespace

import pytest
import tensorflow as tf

from r2d2 import config
from r2d2.training import device


def sees(monkeypatch, gpus):
    """TensorFlow sees so many GPUs."""
    there = [SimpleNamespace(name=f"/physical_device:GPU:{number}") for number in range(gpus)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: there if kind == "GPU" else [])
    return there


@pytest.mark.parametrize(
    "threads, overrides, expected",
    [
        (1, {}, 1),
        (2, {}, 2),
        (3, {}, 1),  # which eight images do not share out evenly
        (8, {}, 8),
        (16, {"training": {"batch_size": 16}}, 1),
        (2, {"training": {"batch_size": 8, "xla": True}}, 1),
        (2, {"model": {"normalization": "batch"}}, 1),
        (2, {"model": {"normalization": "group"}}, 2),
        (2, {"model": {"network": "dist-fcn"}}, 2),
    ],
)
def test_a_minibatch_is_shared_out_to_threads_where_that_changes_nothing(
    threads, overrides, expected, tmp_path, monkeypatch
):
    sees(monkeypatch, 0)
    values = {"name": "lanes", "data": {"path": str(tmp_path)}, "training": {"batch_size": 8}} | overrides
    assert device.lanes(config.Experiment.model_validate(values), threads) == expected


@pytest.mark.parametrize(
    ("gpus", "settings", "expected"),
    [
        (0, {}, "CPU"),
        (0, {"xla": True}, "CPU, XLA"),
        (1, {}, "GPU, XLA"),
        (1, {"xla": False}, "GPU"),
        (1, {"deterministic": True}, "GPU"),
        (1, {"deterministic": True, "xla": True}, "GPU, XLA"),
    ],
)
def test_xla_compiles_on_gpus_unless_it_is_told_not_to_or_bits_must_be_alike(monkeypatch, gpus, settings, expected):
    sees(monkeypatch, gpus)
    assert device.told(config.Training(**settings)) == expected


def test_a_worker_takes_the_gpu_of_its_local_number_with_room_to_grow(monkeypatch):
    there, taken = sees(monkeypatch, 2), []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda one, kind: taken.append((one, kind)))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda one, grows: taken.append((one, grows)))
    for local_rank in (1, 2):
        device.use_gpu(local_rank)
    assert taken == [(there[1], "GPU"), (there[1], True), (there[0], "GPU"), (there[0], True)]


def test_batches_stay_where_they_are_without_a_gpu(monkeypatch):
    sees(monkeypatch, 0)
    batches = tf.data.Dataset.range(2)
    assert device.ahead(batches) is batches
