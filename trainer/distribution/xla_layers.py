"""Rewrites Keras's convolutional layers in forms that XLA compiles well.

XLA on a CPU compiles matrix products and shifts of maps well, and convolutions badly. XLA on a GPU
has no deterministic gradient of Keras's max-pooling. Each form here computes the outputs of Keras's
layer from the same weights; a layer whose settings no form covers is left unchanged.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Collection, Iterator

import keras
import tensorflow as tf
from keras import layers

_FEW_CHANNELS = 8  # too few to fill the vectors of a library's convolution
_CONVOLUTIONS = (layers.Conv2D, layers.Conv2DTranspose)
_COVERED = {  # the settings, where a layer has them, for which there are forms
    "data_format": "channels_last",
    "padding": "same",
    "dilation_rate": (1, 1),
    "groups": 1,
    "output_padding": None,
    "interpolation": "nearest",
    "size": (2, 2),  # of up-sampling
}

MAX_POOLING = (layers.MaxPooling2D,)
ALL = (*_CONVOLUTIONS, *MAX_POOLING, layers.UpSampling2D)


@contextlib.contextmanager
def rewritten(model: keras.Model, kinds: Collection[type[layers.Layer]]) -> Iterator[None]:
    """Gives a model's layers of these kinds, of `ALL`, forms for XLA while a step is traced."""
    changed = []
    for layer in _sublayers(model):
        method, form = _FORMS.get(type(layer), ("", None))
        if form and type(layer) in kinds and _is_covered(layer):
            setattr(layer, method, functools.partial(form, layer))
            changed.append((layer, method))
    try:
        yield
    finally:
        for layer, method in changed:
            delattr(layer, method)  # uncovers the method of the class


def count_multiplications(model: keras.Model) -> tuple[int, int]:
    """Counts multiply-adds an image of convolutions with few channels, and of all others."""
    multiplications = {True: 0, False: 0}
    for layer in _sublayers(model):
        if isinstance(layer, _CONVOLUTIONS):
            pixels = layer.input if isinstance(layer, layers.Conv2DTranspose) else layer.output
            channels = layer.input.shape[3], layer.output.shape[3]
            count = math.prod(pixels.shape[1:3]) * math.prod((*layer.kernel_size, *channels))
            multiplications[min(channels) < _FEW_CHANNELS] += count
    return multiplications[True], multiplications[False]


def _sublayers(layer: layers.Layer) -> Iterator[layers.Layer]:
    for sublayer in getattr(layer, "layers", ()):
        yield sublayer
        yield from _sublayers(sublayer)


def _is_covered(layer: layers.Layer) -> bool:
    """Returns whether a form computes the layer with these settings."""
    settings = layer.get_config()
    if any(settings.get(key, value) != value for key, value in _COVERED.items()):
        return False
    if isinstance(layer, layers.MaxPooling2D):
        return layer.pool_size == layer.strides == (2, 2)
    if isinstance(layer, _CONVOLUTIONS):
        (size, width), (stride, stride_across) = layer.kernel_size, layer.strides
        return size == width >= stride == stride_across
    return True


def _convolve(layer: layers.Conv2D, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves maps [B, H, W, C] to [B, ceil(H/stride), ceil(W/stride), filters]."""
    stride = layer.strides[0]
    kernel = tf.convert_to_tensor(kernel)
    size, _, channels, filters = kernel.shape
    outputs = [-(-length // stride) for length in inputs.shape[1:3]]
    if stride == 1 and filters < channels:
        # Few maps out: one product to the taps of each map, then shift and add the taps.
        taps = tf.tensordot(inputs, kernel, [[3], [2]])  # [B, H, W, size, size, filters]
        padded = _pad_same(tf.reshape(taps, [*_dimensions(inputs), -1]), size, stride)
        shifted = _shifts(padded, size, stride, outputs)
        return tf.add_n([
            maps[..., tap * filters : (tap + 1) * filters] for tap, maps in enumerate(shifted)
        ])  # fmt: skip
    # Few maps in: the neighbourhood of each pixel in a row, then one product.
    patches = tf.concat(_shifts(_pad_same(inputs, size, stride), size, stride, outputs), -1)
    return tf.tensordot(patches, tf.reshape(kernel, [-1, filters]), 1)


def _convolve_transposed(layer: layers.Conv2DTranspose, inputs: tf.Tensor) -> tf.Tensor:
    """Convolves maps [B, H, W, C], transposed, to [B, stride*H, stride*W, filters]."""
    stride, size = layer.strides[0], layer.kernel_size[0]
    taps = tf.tensordot(inputs, tf.convert_to_tensor(layer.kernel), [[3], [3]])
    before = (size - stride) // 2
    phases = [
        [_phase(taps, stride, before, row, column) for column in range(stride)]
        for row in range(stride)
    ]
    # Pixel (stride * i + row, stride * j + column) is pixel (i, j) of phase (row, column).
    maps = tf.stack([tf.stack(across, axis=3) for across in phases], axis=2)
    batch, height, width = _dimensions(inputs)
    outputs = tf.reshape(maps, [batch, stride * height, stride * width, layer.filters])
    if layer.use_bias:
        outputs += tf.cast(layer.bias, outputs.dtype)
    return layer.activation(outputs)


def _max_pool(layer: layers.MaxPooling2D, inputs: tf.Tensor) -> tf.Tensor:
    """Takes the largest of each 2x2 pixels: maps [B, H, W, C] to [B, ceil(H/2), ceil(W/2), C]."""
    del layer
    height, width = inputs.shape[1:3]
    padding = [[0, 0], [0, height % 2], [0, width % 2], [0, 0]]
    maps = tf.pad(inputs, padding, constant_values=inputs.dtype.min)
    top = tf.maximum(maps[:, ::2, ::2], maps[:, ::2, 1::2])
    return tf.maximum(top, tf.maximum(maps[:, 1::2, ::2], maps[:, 1::2, 1::2]))


def _up_sample(layer: layers.UpSampling2D, inputs: tf.Tensor) -> tf.Tensor:
    """Repeats each pixel four times: maps [B, H, W, C] to [B, 2H, 2W, C]."""
    del layer
    batch, height, width = _dimensions(inputs)
    channels = inputs.shape[3]
    spread = tf.broadcast_to(
        inputs[:, :, tf.newaxis, :, tf.newaxis], [batch, height, 2, width, 2, channels]
    )
    return tf.reshape(spread, [batch, 2 * height, 2 * width, channels])


_FORMS: dict[type, tuple[str, Callable]] = {  # the method that each replaces
    layers.Conv2D: ("convolution_op", _convolve),
    layers.Conv2DTranspose: ("call", _convolve_transposed),
    layers.MaxPooling2D: ("call", _max_pool),
    layers.UpSampling2D: ("call", _up_sample),
}


def _dimensions(maps: tf.Tensor) -> tuple[tf.Tensor, int, int]:
    """Returns batch size, height and width."""
    return tf.shape(maps)[0], maps.shape[1], maps.shape[2]


def _pad_same(maps: tf.Tensor, size: int, stride: int) -> tf.Tensor:
    """Pads maps [B, H, W, C] with zeros as "same" does: an odd one below or to the right."""
    padding = [[0, 0], [0, 0], [0, 0], [0, 0]]
    for axis in (1, 2):
        length = maps.shape[axis]
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        padding[axis] = [total // 2, total - total // 2]
    return tf.pad(maps, padding)


def _shifts(padded: tf.Tensor, size: int, stride: int, outputs: list[int]) -> list[tf.Tensor]:
    """Returns for each tap of a kernel, row by row, the pixels [B, *outputs, C] under the tap."""
    height, width = ((length - 1) * stride + 1 for length in outputs)
    return [
        padded[:, row : row + height : stride, column : column + width : stride]
        for row in range(size)
        for column in range(size)
    ]


def _phase(taps: tf.Tensor, stride: int, before: int, row: int, column: int) -> tf.Tensor:
    """Returns the pixels (stride * i + row, stride * j + column) of a transposed convolution.

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
