"""The kernels in C++, where the processor has what they need, against TensorFlow's own in float32."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from r2d2 import kernels
from r2d2.kernels import processor_flags

needs_amx = pytest.mark.skipif("amx_bf16" not in processor_flags(), reason="the processor has no AMX for bfloat16")
SHAPES = [
    # images, rows, columns, channels in and out, size
    (2, 5, 7, 1, 4, 3),
    (3, 16, 16, 32, 32, 3),
    (2, 9, 40, 33, 70, 3),
    (1, 33, 31, 64, 32, 5),
    (4, 8, 8, 64, 96, 3),
    (2, 4, 4, 40, 50, 7),
    (2, 6, 6, 16, 16, 1),
    (1, 70, 200, 64, 40, 3),  # several strips of an image
    (1, 120, 130, 96, 64, 5),
    (5, 8, 8, 512, 64, 3),  # more sums than packed numbers
    (1, 40, 64, 512, 96, 3),
    (0, 8, 8, 32, 32, 3),
]


def batch(images, rows, columns, channels_in, channels_out):
    rng = np.random.default_rng(0)
    shapes = [(images, rows, columns, channels) for channels in (channels_in, channels_out, channels_out)]
    return [tf.cast(tf.constant(rng.normal(size=shape), tf.float32), tf.bfloat16) for shape in shapes]


@needs_amx
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_gradients_are_those_of_float32(shape, relu):
    size = shape[-1]
    images, gradient, output = batch(*shape[:-1])
    found = kernels.load().r2d2_convolution_gradient(
        images=images, gradient=gradient, output=output, size=size, relu=relu
    )
    behind = tf.cast(tf.where(output > 0, gradient, tf.zeros_like(gradient)) if relu else gradient, tf.float32)
    np.testing.assert_array_equal(tf.cast(found.behind, tf.float32), behind)
    if shape[0] == 0:
        assert not found.kernel.numpy().any() and not found.bias.numpy().any()
        return
    kernel = tf.raw_ops.Conv2DBackpropFilter(
        input=tf.cast(images, tf.float32),
        filter_sizes=found.kernel.shape,
        out_backprop=behind,
        strides=[1, 1, 1, 1],
        padding="SAME",
    )
    for ours, theirs in ((found.kernel, kernel), (found.bias, tf.reduce_sum(behind, axis=(0, 1, 2)))):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@needs_amx
def test_shapes_that_do_not_fit_are_refused():
    images, gradient, output = batch(2, 6, 6, 8, 8)
    for wrong, message in (
        ({"gradient": gradient[:, :5]}, "one size"),
        ({"output": output[..., :4]}, "one shape"),
        ({"size": 2}, "odd"),
    ):
        given = {"images": images, "gradient": gradient, "output": output, "size": 3, "relu": True} | wrong
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            kernels.load().r2d2_convolution_gradient(**given)


@needs_amx
def test_tensorflows_own_kernels_find_the_processor_as_they_left_it():
    images, gradient, output = batch(2, 32, 32, 32, 32)
    weights = tf.cast(tf.random.stateless_normal((3, 3, 32, 32), (1, 2)), tf.bfloat16)

    def theirs():
        return tf.cast(tf.nn.conv2d(images, weights, 1, "SAME"), tf.float32).numpy()

    before = theirs()
    kernels.load().r2d2_convolution_gradient(images=images, gradient=gradient, output=output, size=3, relu=True)
    np.testing.assert_array_equal(theirs(), before)


THREADS = """
import sys, hashlib
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from r2d2 import kernels
digest = hashlib.sha256()
for shape in ((3, 40, 52, 40, 32), (2, 20, 20, 256, 160)):
    draw = lambda channels, seed: tf.cast(tf.random.stateless_normal((*shape[:3], channels), (seed, 0)), tf.bfloat16)
    images, gradient, output = draw(shape[3], 1), draw(shape[4], 2), draw(shape[4], 3)
    found = kernels.load().r2d2_convolution_gradient(images=images, gradient=gradient, output=output, size=3, relu=True)
    for tensor in found[:2]:
        digest.update(tensor.numpy().tobytes())
print(digest.hexdigest())
"""


@needs_amx
def test_any_number_of_threads_finds_the_same_bits():
    found = set()
    for threads in ("1", "3"):
        command = [sys.executable, "-c", THREADS, threads]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        found.add(done.stdout.strip())
    assert len(found) == 1 and len(found.pop()) == len(hashlib.sha256().hexdigest())


def test_a_built_library_is_known_by_what_it_was_made_of(monkeypatch, tmp_path):
    before = kernels.library()
    source = tmp_path / "convolution_gradient.cc"
    source.write_bytes(kernels.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(kernels, "SOURCE", source)
    assert kernels.library().name != before.name and kernels.library().parent == tmp_path


def test_without_a_compiler_the_reason_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernels, "SOURCE", tmp_path / "convolution_gradient.cc")
    (tmp_path / "convolution_gradient.cc").write_text("int main() { return }")
    kernels.main()
    assert "error" in capsys.readouterr().err.splitlines()[0]
    monkeypatch.setenv("PATH", str(tmp_path))
    kernels.main()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "training goes without them" in told[0] and "g++" in told[0]
    assert [path.name for path in tmp_path.iterdir()] == ["convolution_gradient.cc"]
