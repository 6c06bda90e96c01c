import pytest

from r2d2 import config
from r2d2.training import device


@pytest.mark.parametrize(
    "threads, overrides, expected",
    [
        (1, {}, 1),
        (2, {}, 2),
        (3, {}, 1),  # which eight images do not share out evenly
        (8, {}, 8),
        (16, {"training": {"batch_size": 16}}, 1),
        (2, {"training": {"batch_size": 8, "xla": True}}, 1),
        (2, {"training": {"batch_size": 8, "xla": False}}, 2),
        (2, {"model": {"normalization": "batch"}}, 1),
        (2, {"model": {"normalization": "group"}}, 2),
        (2, {"model": {"network": "dist-fcn"}}, 2),
    ],
)
def test_a_minibatch_is_shared_out_to_threads_where_that_changes_nothing(threads, overrides, expected, tmp_path):
    values = {"name": "lanes", "data": {"path": str(tmp_path)}, "training": {"batch_size": 8}} | overrides
    assert device.lanes(config.Experiment.model_validate(values), threads) == expected
