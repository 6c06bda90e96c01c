"""Keras' layers with cheaper gradients, for training and predicting on CPUs; the saved model has Keras' own.

They have the variables, the configuration and, within rounding, the results of the layers that they replace. What they
save is passes over memory: on a CPU with AMX the convolutions' products are a third of a step's time.

- A convolution takes its weights in float32 and a skip connection's parts as they are, and its gradients come from two
  passes: one for kernel, bias and ReLU, one for the images (`r2d2.kernels`, where built).
- A transposed convolution whose squares do not overlap is a product of matrices, and so are its gradients.
- The scores of the classes are computed from float32, their gradients in the precision of the rest.
- Dropout draws the same whether a minibatch is computed at once or in shares.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

from r2d2 import kernels


class Convolution(keras.layers.Conv2D):
    """A convolution that keeps the image's size, with stride 1 and an odd kernel."""

    def add_weight(self, *arguments: Any, **keywords: Any) -> Any:
        """As Keras', but for the type it is read in: float32, for gradients in float32."""
        return super().add_weight(*arguments, **keywords | {"autocast": False})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As Keras'."""
        library, relu = kernels.load(), self.activation is keras.activations.relu
        parts = getattr(inputs, "parts", [inputs])
        channels = [part.shape[-1] for part in parts]
        ours = bool(library) and not any(number % kernels.CHANNELS for number in (*channels, self.filters))
        if not ours:
            parts = [inputs]

        def output(images: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
            scores = tf.nn.conv2d(images, kernel, 1, "SAME")
            scores = tf.nn.bias_add(scores, tf.cast(bias, images.dtype)) if self.use_bias else scores
            return tf.nn.relu(scores) if relu else scores

        def convolve(kernel: tf.Tensor, bias: tf.Tensor, *images: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            if ours:
                result = library.r2d2_convolution(images=list(images), kernel=kernel, bias=bias, relu=relu)
            else:
                narrow = tf.cast(kernel, images[0].dtype)
                result = output(images[0], narrow, bias)

            def gradients(gradient: tf.Tensor) -> tuple[tf.Tensor, ...]:
                learned = library.r2d2_convolution_gradient(
                    images=list(images), gradient=gradient, output=result, size=self.kernel_size[0], relu=relu
                )
                if ours:
                    back = library.r2d2_convolution_back(
                        gradient=learned.behind, kernel=kernel, channels=channels, parts=len(channels)
                    )
                    return learned.kernel, learned.bias, *back
                back = tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=tf.shape(images[0]),
                    filter=narrow,
                    out_backprop=learned.behind,
                    strides=[1] * 4,
                    padding="SAME",
                )
                return learned.kernel, learned.bias, tf.ensure_shape(back, images[0].shape)

            return result, gradients

        parts = [tf.cast(part, self.compute_dtype) for part in parts]
        kernel, bias = tf.identity(self.kernel), tf.identity(self.bias) if self.use_bias else tf.zeros(self.filters)
        if library and self.trainable:
            return tf.custom_gradient(convolve)(kernel, bias, *parts)
        return output(tf.cast(inputs, self.compute_dtype), tf.cast(kernel, self.compute_dtype), bias)


class Concatenate(keras.layers.Concatenate):
    """A concatenation that tells what it was made of: a convolution takes the parts, and the whole is never made."""

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """As Keras'."""
        whole = super().call(inputs)
        whole.parts = list(inputs)
        return whole


class Enlargement(keras.layers.Conv2DTranspose):
    """A transposed convolution with a 2x2 kernel and stride 2: every pixel becomes a square of its own."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As Keras'."""
        height, width, channels = inputs.shape[1:]

        def enlarge(images: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            matrix = tf.reshape(kernel, (4 * self.filters, channels))
            squares = tf.nn.conv2d(images, tf.transpose(matrix)[tf.newaxis, tf.newaxis], 1, "VALID")
            squares = tf.reshape(tf.nn.bias_add(squares, tf.tile(bias, [4])), (-1, height, width, 2, 2 * self.filters))
            output = tf.reshape(tf.transpose(squares, (0, 1, 3, 2, 4)), (-1, 2 * height, 2 * width, self.filters))

            def gradients(gradient: tf.Tensor) -> tuple[tf.Tensor, ...]:
                squares = tf.reshape(tf.nn.space_to_depth(gradient, 2), (-1, 4 * self.filters))
                back = tf.reshape(tf.matmul(squares, matrix), tf.shape(images))
                by_kernel = tf.matmul(squares, tf.reshape(images, (-1, channels)), transpose_a=True)
                sums = tf.reshape(tf.cast(_column_sums(squares), "float32"), (4, self.filters))
                by_bias = tf.cast(tf.reduce_sum(sums, axis=0), bias.dtype)
                return tf.ensure_shape(back, images.shape), tf.reshape(by_kernel, kernel.shape), by_bias

            return output, gradients

        inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(self.kernel)
        return tf.custom_gradient(enlarge)(inputs, kernel, tf.convert_to_tensor(self.bias))


class Scores(keras.layers.Conv2D):
    """A 1x1 convolution to the scores of the classes: float32 from a float32 copy of its inputs."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.autocast = False  # the inputs come as they are

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As Keras'."""

        def score(images: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            output = tf.nn.bias_add(tf.nn.conv2d(tf.cast(images, "float32"), kernel, 1, "VALID"), bias)

            def gradients(gradient: tf.Tensor) -> tuple[tf.Tensor, ...]:
                wide = tf.reshape(gradient, (-1, self.filters))
                narrow = tf.cast(wide, images.dtype)
                back = tf.matmul(narrow, tf.cast(kernel[0, 0], images.dtype), transpose_b=True)
                by_kernel = tf.matmul(tf.reshape(images, (-1, images.shape[-1])), narrow, transpose_a=True)
                by_kernel = tf.reshape(tf.cast(by_kernel, "float32"), kernel.shape)
                return tf.reshape(back, tf.shape(images)), by_kernel, tf.reduce_sum(wide, axis=0)

            return output, gradients

        return tf.custom_gradient(score)(tf.convert_to_tensor(inputs), tf.identity(self.kernel), tf.identity(self.bias))


class Dropout(keras.layers.Dropout):
    """Dropout that draws for the whole minibatch, of which the inputs may be a share: see `share`."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """As Keras', but for the state of its random generator, which stays as it is."""
        if not training or not self.rate:
            return inputs
        number, count = _SHARE.get()
        size = tf.shape(inputs)[0]
        ones = tf.ones((size * count, *inputs.shape[1:]), inputs.dtype)
        seed = tf.cast(self.seed_generator.state.value, "int32")
        kept = tf.nn.experimental.stateless_dropout(ones, rate=self.rate, seed=seed)
        return tf.ensure_shape(inputs * kept[number * size :][:size], inputs.shape)


_SHARE: ContextVar[tuple[tf.Tensor | int, int]] = ContextVar("share", default=(0, 1))


@contextmanager
def share(number: tf.Tensor | int, count: int) -> Iterator[None]:
    """Let the images of what is computed inside be share `number` of `count` equal ones of a minibatch."""
    token = _SHARE.set((number, count))
    try:
        yield
    finally:
        _SHARE.reset(token)


LAYERS = {layer.__name__: layer for layer in (Convolution, Concatenate, Enlargement, Scores, Dropout)}


def replacement(layer: dict[str, Any], precision: str, single: bool) -> str | None:
    """The name of the layer that can take the place of one, given as Keras describes it in a model's configuration.

    Args:
        layer: The description.
        precision: What the network is to compute in.
        single: Whether this layer is to compute in float32 all the same.
    """
    kind, settings = layer["class_name"], layer["config"]
    if kind in ("Dropout", "Concatenate"):
        return kind
    if kind == "Conv2DTranspose":
        apart = tuple(settings["kernel_size"]) == tuple(settings["strides"]) == (2, 2)
        return "Enlargement" if apart and settings["use_bias"] and settings["activation"] == "linear" else None
    if kind != "Conv2D" or precision == "float32":
        return None
    (height, width), plain = settings["kernel_size"], settings["activation"] in ("linear", "relu")
    if tuple(settings["strides"]) != (1, 1) or tuple(settings["dilation_rate"]) != (1, 1) or height != width:
        return None
    if single:
        return "Scores" if layer["name"] == "logits" and height == 1 else None
    return "Convolution" if plain and height % 2 == 1 and (height == 1 or settings["padding"] == "same") else None


def _column_sums(matrix: tf.Tensor) -> tf.Tensor:
    """The sums over a matrix' rows, as a product: TensorFlow's own sum of bfloat16 is slower."""
    return tf.matmul(tf.ones((1, tf.shape(matrix)[0]), matrix.dtype), matrix)[0]
