"""Batches by the memory that is free, and half of them where that was too much."""

import numpy as np
import psutil
import pytest
import tensorflow as tf
from helpers.saved import experiment, small_network

from r2d2 import imgmed
from r2d2.errors import WorkFailed
from r2d2.inference import Predictor, Segmenter, memory
from r2d2.models.precision import with_precision


def _group(folder, limit, used, files=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {files}\n")


def test_the_tightest_control_group_above_a_process_counts(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    assert memory.free_bytes(tmp_path / "none", own) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    _group(tmp_path / "groups" / "a", 10_000, 4_000, 1_000)
    _group(tmp_path / "groups" / "a" / "b", "max", 3_000)
    assert memory.free_bytes(tmp_path / "groups", own) == 7_000
    _group(tmp_path / "groups" / "a" / "b", 3_500, 3_000)
    assert memory.free_bytes(tmp_path / "groups", own) == 500
    # In a container: the path is the host's, the limit is at the root.
    own.write_text("0::/somewhere/else\n")
    _group(tmp_path / "groups", 2_000, 1_200)
    assert memory.free_bytes(tmp_path / "groups", own) == 800


def test_the_limit_of_an_old_control_group_counts_too(tmp_path):
    folder = tmp_path / "groups" / "memory" / "a"
    folder.mkdir(parents=True)
    for name, text in (("limit_in_bytes", "9000"), ("usage_in_bytes", "2000"), ("stat", "inactive_file 500")):
        (folder / f"memory.{name}").write_text(text)
    (tmp_path / "cgroup").write_text("12:cpu,cpuacct:/a\n5:memory:/a\n")
    assert memory.free_bytes(tmp_path / "groups", tmp_path / "cgroup") == 7_500


def test_a_batch_is_what_half_of_the_free_memory_holds_and_never_more_than_16(monkeypatch):
    network = small_network()
    one = memory.image_bytes(network)
    # 24x20: 1 + twice 4, 24x20; their pool; ... all in float32, by hand for the first two levels.
    assert one > 4 * 24 * 20 * (1 + 4 + 4 + 1 + 4 + 8 + 4 + 4 + 3 + 3)
    for free, batch in ((0, 1), (2 * one - 1, 1), (6 * one, 3), (31 * one, 15), (10**15, 16)):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        assert memory.batch_size(network) == batch
    assert memory.image_bytes(with_precision(network, "bfloat16")) < 0.7 * one


@pytest.fixture
def scan():
    data = np.random.default_rng(0).standard_normal((15, 18, 29)).astype(np.float32)
    return imgmed.Volume(data, np.eye(4))


def test_a_batch_that_memory_does_not_hold_is_halved_and_the_mask_is_the_same(scan, tmp_path):
    network, preprocess = small_network(), experiment().preprocess
    segmenter = Segmenter(network, preprocess)
    images = segmenter.images(scan, tmp_path)
    expected = segmenter.segment(scan, images).mask.data
    np.testing.assert_array_equal(Predictor(network, preprocess).volume(scan, tmp_path).data, expected)
    forward, sizes, seen = segmenter._forward, [], []

    def short_of_memory(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
        return forward(batch)

    segmenter._forward = short_of_memory
    found = segmenter.segment(scan, images, advance=lambda: seen.append(1)).mask.data
    np.testing.assert_array_equal(found, expected)
    assert max(sizes) > 2 and max(sizes[-5:]) <= 2, "it remembers"
    assert len(seen) == 29

    def none_at_all(batch):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    segmenter._forward = none_at_all
    with pytest.raises(WorkFailed, match="not enough memory to predict a single slice"):
        segmenter.segment(scan, images)


@pytest.mark.parametrize("many", [False, True])
def test_a_segmenter_says_what_a_predictor_says_within_the_rounding_of_bfloat16(scan, tmp_path, many):
    network, preprocess = with_precision(small_network(), "bfloat16"), experiment().preprocess
    segmenter = Segmenter(network, preprocess, many=many)
    one = segmenter.segment(scan, segmenter.images(scan, tmp_path)).mask.data
    other = Predictor(network, preprocess).volume(scan, tmp_path).data
    assert len(np.unique(one)) == 3
    assert (one != other).mean() < 0.005


def test_a_frozen_network_keeps_the_weights_that_it_had(scan, tmp_path):
    network, preprocess = small_network(), experiment().preprocess
    frozen, other = Segmenter(network, preprocess, many=True), Segmenter(network, preprocess)
    images = frozen.images(scan, tmp_path)
    before = frozen.segment(scan, images).mask.data
    bias = network.get_layer("logits").bias
    bias.assign(bias + np.array([0, 0, 50], np.float32))
    np.testing.assert_array_equal(frozen.segment(scan, images).mask.data, before)
    assert (other.segment(scan, images).mask.data == 2).all()
