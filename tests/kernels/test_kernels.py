"""The kernels in C++, where the processor has what they need, against TensorFlow's own in float32."""

import hashlib
import os
import shutil
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
        images=[images], gradient=gradient, output=output, size=size, relu=relu
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


CONVOLUTIONS = [
    # images, rows, columns, channels in of each part and out, size
    (3, 16, 16, (32,), 32, 3),
    (2, 5, 7, (64,), 96, 3),
    (2, 9, 40, (32, 64), 64, 3),
    (1, 70, 200, (64,), 32, 3),  # several strips of an image
    (5, 8, 8, (256,), 512, 3),  # many channels
    (2, 20, 12, (128, 160, 32), 256, 3),
    (2, 6, 6, (96,), 64, 1),
    (2, 8, 4, (32,), 32, 7),
    (0, 8, 8, (32,), 32, 3),
]


@needs_amx
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("images, rows, columns, parts, channels, size", CONVOLUTIONS, ids=str)
def test_convolutions_are_those_of_float32(images, rows, columns, parts, channels, size, relu):
    whole, gradient, _ = batch(images, rows, columns, sum(parts), channels)
    rng = np.random.default_rng(1)
    kernel = tf.cast(tf.constant(rng.normal(size=(size, size, sum(parts), channels)), tf.float32), tf.bfloat16)
    bias = tf.constant(rng.normal(size=channels), tf.float32)
    wide, kernel = tf.cast(whole, tf.float32), tf.cast(kernel, tf.float32)
    found = kernels.load().r2d2_convolution(images=tf.split(whole, parts, -1), kernel=kernel, bias=bias, relu=relu)
    back = kernels.load().r2d2_convolution_back(gradient=gradient, kernel=kernel, channels=parts, parts=len(parts))
    assert found.dtype == tf.bfloat16 and [one.shape[-1] for one in back] == list(parts)
    if not images:
        assert found.shape == gradient.shape
        return
    scores = tf.nn.bias_add(tf.nn.conv2d(wide, kernel, 1, "SAME"), bias)
    expected = tf.nn.relu(scores) if relu else scores
    theirs = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=whole.shape,
        filter=kernel,
        out_backprop=tf.cast(gradient, tf.float32),
        strides=[1] * 4,
        padding="SAME",
    )
    for ours, other in ((found, expected), (tf.concat(back, -1), theirs)):
        ours, other = tf.cast(ours, tf.float32).numpy(), other.numpy()
        np.testing.assert_allclose(ours, other, rtol=2**-8, atol=1e-5 * np.abs(other).max())


@needs_amx
def test_what_is_no_number_stays_so():
    images = tf.cast(tf.fill((1, 4, 4, 32), np.nan), tf.bfloat16)
    found = kernels.load().r2d2_convolution(
        images=[images], kernel=tf.ones((3, 3, 32, 32)), bias=tf.zeros(32), relu=True
    )
    assert np.isnan(tf.cast(found, tf.float32)).all()


@needs_amx
def test_shapes_that_do_not_fit_are_refused():
    images, gradient, output = batch(2, 6, 6, 8, 8)
    for wrong, message in (
        ({"gradient": gradient[:, :5]}, "one size"),
        ({"output": output[..., :4]}, "one shape"),
        ({"size": 2}, "odd"),
    ):
        given = {"images": [images], "gradient": gradient, "output": output, "size": 3, "relu": True} | wrong
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            kernels.load().r2d2_convolution_gradient(**given)


@needs_amx
def test_tensorflows_own_kernels_find_the_processor_as_they_left_it():
    images, gradient, output = batch(2, 32, 32, 32, 32)
    weights = tf.cast(tf.random.stateless_normal((3, 3, 32, 32), (1, 2)), tf.bfloat16)

    def theirs():
        return tf.cast(tf.nn.conv2d(images, weights, 1, "SAME"), tf.float32).numpy()

    before = theirs()
    kernels.load().r2d2_convolution_gradient(images=[images], gradient=gradient, output=output, size=3, relu=True)
    np.testing.assert_array_equal(theirs(), before)


THREADS = """
import sys, hashlib
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from r2d2 import kernels
digest = hashlib.sha256()
for shape in ((3, 40, 52, 40, 32), (3, 40, 52, 64, 32), (2, 20, 20, 256, 160)):
    draw = lambda channels, seed: tf.cast(tf.random.stateless_normal((*shape[:3], channels), (seed, 0)), tf.bfloat16)
    images, gradient, output = draw(shape[3], 1), draw(shape[4], 2), draw(shape[4], 3)
    given = {"images": [images], "gradient": gradient, "output": output}
    found = kernels.load().r2d2_convolution_gradient(**given, size=3, relu=True)
    kernel, bias = tf.random.stateless_normal((3, 3, shape[3], shape[4]), (4, 0)), tf.zeros(shape[4])
    if shape[3] % kernels.CHANNELS == 0:
        more = kernels.load().r2d2_convolution(images=[images], kernel=kernel, bias=bias, relu=True)
        back = kernels.load().r2d2_convolution_back(gradient=gradient, kernel=kernel, channels=[shape[3]], parts=1)
        found = (*found[:2], more, *back)
    for tensor in found[:4]:
        digest.update(tf.cast(tensor, tf.float32).numpy().tobytes())
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
    for name in kernels.SOURCES:
        shutil.copy(kernels.FOLDER / name, tmp_path)
    monkeypatch.setattr(kernels, "FOLDER", tmp_path)
    assert kernels.library().name == before.name
    with (tmp_path / "amx.h").open("a") as file:
        file.write("\n")
    assert kernels.library().name != before.name and kernels.library().parent == tmp_path


def test_without_a_compiler_the_reason_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernels, "FOLDER", tmp_path)
    for name in kernels.SOURCES:
        (tmp_path / name).write_text("int main() { return }")
    kernels.main()
    assert "error" in capsys.readouterr().err.splitlines()[0]
    monkeypatch.setenv("PATH", str(tmp_path))
    kernels.main()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "training goes without them" in told[0] and "g++" in told[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kernels.SOURCES)
