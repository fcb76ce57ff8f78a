"""Keras's convolutions, poolings and up-samplings, also in forms that XLA compiles well.

XLA on a CPU compiles matrix products and shifts of maps well and convolutions badly. Inside
`as_matrix_products()`, each layer here computes what Keras's does, from the same weights, by such
products. Inside `strided_max_pooling()`, only poolings do: XLA on a GPU has no deterministic
gradient of Keras's. Padding is "same" throughout.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterable, Iterator

import keras
import tensorflow as tf
from keras import layers

_AS_MATRIX_PRODUCTS = contextvars.ContextVar("as_matrix_products", default=False)
_STRIDED_MAX_POOLING = contextvars.ContextVar("strided_max_pooling", default=False)
_FEW_CHANNELS = 8  # too few to fill the vectors of a library's convolution


@contextlib.contextmanager
def as_matrix_products(chosen: bool = True) -> Iterator[None]:
    """The layers called, or traced, inside compute by matrix products."""
    token = _AS_MATRIX_PRODUCTS.set(chosen)
    try:
        yield
    finally:
        _AS_MATRIX_PRODUCTS.reset(token)


@contextlib.contextmanager
def strided_max_pooling(chosen: bool = True) -> Iterator[None]:
    """The max-poolings called, or traced, inside compare the four pixels of each window."""
    token = _STRIDED_MAX_POOLING.set(chosen)
    try:
        yield
    finally:
        _STRIDED_MAX_POOLING.reset(token)


class Convolution(layers.Conv2D):
    """A convolution of maps [B, H, W, C] to [B, ceil(H/stride), ceil(W/stride), filters]."""

    def __init__(self, filters: int, size: int, stride: int = 1, **settings):
        super().__init__(filters, size, stride, padding="same", **settings)

    def convolution_op(self, inputs, kernel):
        if not _AS_MATRIX_PRODUCTS.get():
            return super().convolution_op(inputs, kernel)
        stride = self.strides[0]
        kernel = tf.convert_to_tensor(kernel)
        size, _, channels, filters = kernel.shape
        outputs = [-(-length // stride) for length in inputs.shape[1:3]]
        if stride == 1 and filters < channels:
            # Few maps out: one product to the taps of each, then shift and add those.
            taps = tf.tensordot(inputs, kernel, [[3], [2]])  # [B, H, W, size, size, filters]
            padded = _pad_same(tf.reshape(taps, [*_rows(inputs), -1]), size, stride)
            shifted = _shifts(padded, size, stride, outputs)
            return tf.add_n([
                maps[..., tap * filters : (tap + 1) * filters] for tap, maps in enumerate(shifted)
            ])  # fmt: skip
        # Few maps in: the neighbourhood of each pixel in a row, then one product.
        patches = tf.concat(_shifts(_pad_same(inputs, size, stride), size, stride, outputs), -1)
        return tf.tensordot(patches, tf.reshape(kernel, [-1, filters]), 1)


class TransposedConvolution(layers.Conv2DTranspose):
    """A transposed convolution of maps [B, H, W, C] to [B, stride*H, stride*W, filters]."""

    def __init__(self, filters: int, size: int, stride: int, **settings):
        super().__init__(filters, size, stride, padding="same", **settings)

    def call(self, inputs):
        if not _AS_MATRIX_PRODUCTS.get():
            return super().call(inputs)
        stride, size = self.strides[0], self.kernel_size[0]
        taps = tf.tensordot(inputs, tf.convert_to_tensor(self.kernel), [[3], [3]])
        before = (size - stride) // 2
        phases = [
            [_phase(taps, stride, before, row, column) for column in range(stride)]
            for row in range(stride)
        ]
        # Pixel (stride * i + row, stride * j + column) is pixel (i, j) of phase (row, column).
        maps = tf.stack([tf.stack(across, axis=3) for across in phases], axis=2)
        batch, height, width = _rows(inputs)
        outputs = tf.reshape(maps, [batch, stride * height, stride * width, self.filters])
        return self.activation(outputs + tf.cast(self.bias, outputs.dtype))


class MaxPooling(layers.MaxPooling2D):
    """The largest of each 2x2 pixels: maps [B, H, W, C] to [B, ceil(H/2), ceil(W/2), C]."""

    def __init__(self, **settings):
        super().__init__(2, padding="same", **settings)

    def call(self, inputs):
        if not (_AS_MATRIX_PRODUCTS.get() or _STRIDED_MAX_POOLING.get()):
            return super().call(inputs)
        height, width = inputs.shape[1:3]
        padding = [[0, 0], [0, height % 2], [0, width % 2], [0, 0]]
        maps = tf.pad(inputs, padding, constant_values=inputs.dtype.min)
        top = tf.maximum(maps[:, ::2, ::2], maps[:, ::2, 1::2])
        return tf.maximum(top, tf.maximum(maps[:, 1::2, ::2], maps[:, 1::2, 1::2]))


class UpSampling(layers.UpSampling2D):
    """Each pixel four times: maps [B, H, W, C] to [B, 2H, 2W, C]."""

    def __init__(self, **settings):
        super().__init__(2, **settings)

    def call(self, inputs):
        if not _AS_MATRIX_PRODUCTS.get():
            return super().call(inputs)
        batch, height, width = _rows(inputs)
        channels = inputs.shape[3]
        spread = tf.broadcast_to(
            inputs[:, :, tf.newaxis, :, tf.newaxis], [batch, height, 2, width, 2, channels]
        )
        return tf.reshape(spread, [batch, 2 * height, 2 * width, channels])

    def plain_keras(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """What `call` gives, by Keras's own layers; LiteRT's converter has to be told the shape."""
        outputs = layers.UpSampling2D(2, name=self.name, dtype="float32")(inputs)
        told = layers.Reshape(outputs.shape[1:], name=f"{self.name}_shape", dtype="float32")
        return told(outputs)


def count_multiplications(networks: Iterable[keras.Sequential]) -> tuple[int, int]:
    """Counts multiply-adds an image of convolutions with few channels, and of all others."""
    multiplications = {True: 0, False: 0}
    for layer in (layer for network in networks for layer in network.layers):
        if isinstance(layer, Convolution | TransposedConvolution):
            pixels = layer.input if isinstance(layer, TransposedConvolution) else layer.output
            channels = layer.input.shape[3], layer.output.shape[3]
            count = math.prod(pixels.shape[1:3]) * math.prod((*layer.kernel_size, *channels))
            multiplications[min(channels) < _FEW_CHANNELS] += count
    return multiplications[True], multiplications[False]


def _rows(maps: tf.Tensor) -> tuple[tf.Tensor, int, int]:
    """Batch, height and width."""
    return tf.shape(maps)[0], maps.shape[1], maps.shape[2]


def _pad_same(maps: tf.Tensor, size: int, stride: int) -> tf.Tensor:
    """Zeros around maps [B, H, W, C], as "same" wants them: the odd one below and to the right."""
    padding = [[0, 0], [0, 0], [0, 0], [0, 0]]
    for axis in (1, 2):
        length = maps.shape[axis]
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        padding[axis] = [total // 2, total - total // 2]
    return tf.pad(maps, padding)


def _shifts(padded: tf.Tensor, size: int, stride: int, outputs: list[int]) -> list[tf.Tensor]:
    """For each tap of a kernel, row by row, the pixels [B, *outputs, C] that it meets."""
    height, width = ((length - 1) * stride + 1 for length in outputs)
    return [
        padded[:, row : row + height : stride, column : column + width : stride]
        for row in range(size)
        for column in range(size)
    ]


def _phase(taps: tf.Tensor, stride: int, before: int, row: int, column: int) -> tf.Tensor:
    """The pixels (stride * i + row, stride * j + column) of a transposed convolution.

    Input pixel i adds its tap a to output pixel stride * i + a - before.
    """
    height, width, size = taps.shape[1:4]
    met = [tap for tap in range(size) if (tap - before - row) % stride == 0]
    across = [tap for tap in range(size) if (tap - before - column) % stride == 0]
    maps = []
    for down in met:
        for right in across:
            rows = (row + before - down) // stride
            columns = (column + before - right) // stride
            padding = [[max(-rows, 0), max(rows, 0)], [max(-columns, 0), max(columns, 0)]]
            moved = tf.pad(taps[:, :, :, down, right], [[0, 0], *padding, [0, 0]])
            top, left = max(rows, 0), max(columns, 0)
            maps.append(moved[:, top : top + height, left : left + width])
    return tf.add_n(maps)
