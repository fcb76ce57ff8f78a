"""Builds encoders and decoders, dense and with poolings, as plain stacks of Keras layers.

A decoder ends in logits, to which the model applies the output activation. Codes and logits are
computed in float32, whatever the precision of the other layers.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers

from trainer.models import stages
from trainer.models.building_blocks import (
    Shape,
    conv,
    crop,
    halved,
    network,
    require_image,
    transposed_conv,
)
from trainer.models.settings import DenseNetwork, Network

_max_pooling = functools.partial(layers.MaxPooling2D, padding="same")


def create(
    image_shape: Shape, settings: Network, numbers_of_each: int = 1
) -> tuple[keras.Sequential, keras.Sequential]:
    """Builds an encoder and a decoder of the network that the settings choose.

    The encoder gives [B, numbers_of_each * code_size]; the decoder takes [B, code_size].

    Raises:
      UserError: the settings choose convolutions, but the inputs are vectors.
    """
    activation, code_size = settings.activation, settings.code_size
    encoded = numbers_of_each * code_size
    if settings.network == "conv":
        return (
            stages.encoder(image_shape, settings, encoded),
            stages.decoder(image_shape, settings, code_size),
        )
    units = settings.hidden_units
    return (
        dense_encoder(image_shape, units, encoded, activation, "linear"),
        dense_decoder(image_shape, units[::-1], code_size, activation),
    )


def dense_encoder(
    image_shape: Shape,
    hidden_units: Sequence[int],
    code_size: int,
    activation: str,
    code_activation: str,
) -> keras.Sequential:
    """Builds dense layers of `hidden_units` from images [B, H, W, C] to a code [B, code_size]."""
    return network("encoder", image_shape, [
        layers.Flatten(name="flatten"),
        *_dense_layers(hidden_units, activation),
        layers.Dense(code_size, code_activation, name="code", dtype="float32"),
    ])  # fmt: skip


def dense_decoder(
    image_shape: Shape, hidden_units: Sequence[int], code_size: int, activation: str
) -> keras.Sequential:
    """Builds dense layers of `hidden_units` from a code [B, code_size] to logits [B, H, W, C]."""
    return network("decoder", (code_size,), [
        *_dense_layers(hidden_units, activation),
        layers.Dense(math.prod(image_shape), name="logits", dtype="float32"),
        layers.Reshape(image_shape, name="image", dtype="float32"),
    ])  # fmt: skip


def dense_autoencoder(
    image_shape: Shape, settings: DenseNetwork, *, tied: bool = False
) -> tuple[keras.Sequential, keras.Sequential]:
    """Builds a dense encoder and its mirror image.

    The decoder is `tied` to the encoder's kernels, or has kernels of its own.
    """
    units, code_size, activation = settings.hidden_units, settings.code_size, settings.activation
    encoder = dense_encoder(image_shape, units, code_size, activation, settings.code_activation)
    if tied:
        return encoder, tied_decoder(encoder, image_shape, activation)
    return encoder, dense_decoder(image_shape, units[::-1], code_size, activation)


def tied_decoder(
    encoder: keras.Sequential, image_shape: Shape, activation: str
) -> keras.Sequential:
    """Builds a dense decoder of the encoder's kernels, transposed, and of biases of its own."""
    *others, first = [layer for layer in encoder.layers if isinstance(layer, layers.Dense)][::-1]
    return network("decoder", (encoder.output_shape[-1],), [
        *(
            TransposedDense(layer, activation, name=f"hidden_{number}")
            for number, layer in enumerate(others, start=1)
        ),
        TransposedDense(first, name="logits", dtype="float32"),
        layers.Reshape(image_shape, name="image", dtype="float32"),
    ])  # fmt: skip


class TransposedDense(layers.Layer):
    """Maps rows [B, units] to [B, inputs] by a dense layer's kernel, transposed, and a new bias."""

    def __init__(self, dense: layers.Dense, activation: str = "linear", **settings):
        super().__init__(**settings)
        self._kernel = lambda: dense.kernel  # hidden from Keras: it is the encoder's variable
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        del input_shape
        self.bias = self.add_weight((self._kernel().shape[0],), "zeros", name="bias")

    def call(self, inputs):
        kernel = tf.cast(self._kernel(), inputs.dtype)
        outputs = tf.matmul(inputs, kernel, transpose_b=True)
        return self.activation(outputs + tf.cast(self.bias, outputs.dtype))

    def plain_keras(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Computes `call` by a Keras layer with a copy of the kernel, in float32."""
        kernel, bias = (weights.numpy() for weights in (self._kernel(), self.bias))
        dense = layers.Dense(len(bias), self.activation, name=self.name, dtype="float32")
        outputs = dense(inputs)
        dense.set_weights([kernel.T, bias])
        return outputs


def dense_pair(
    image_shape: Shape, layer_sizes: Sequence[int], activation: str, code_activation: str
) -> tuple[keras.Sequential, keras.Sequential]:
    """Builds dense layers of `layer_sizes`, the code last, and their mirror image."""
    *hidden_units, code_size = layer_sizes
    return (
        dense_encoder(image_shape, hidden_units, code_size, activation, code_activation),
        dense_decoder(image_shape, hidden_units[::-1], code_size, activation),
    )


def conv_pair(
    image_shape: Shape, layer_sizes: Sequence[int], activation: str, code_activation: str
) -> tuple[keras.Sequential, keras.Sequential]:
    """Builds keras.io's denoiser: `pooled_encoder`, and a decoder of transposed convolutions.

    The decoder has a transposed convolution of stride 2 for each pooling, and a convolution to the
    logits.

    Raises:
      UserError: the inputs are vectors.
    """
    encoder = pooled_encoder(image_shape, layer_sizes, activation, code_activation)
    height, width, image_channels = image_shape
    times = len(layer_sizes)
    rows, columns = halved(image_shape, times)
    decoder = network("decoder", encoder.output_shape[1:], [
        layers.Reshape((rows, columns, layer_sizes[-1]), name="map"),
        *(
            transposed_conv(channels, activation=activation, name=f"conv_{number}")
            for number, channels in enumerate(layer_sizes[::-1], start=1)
        ),
        conv(image_channels, name="logits", dtype="float32"),
        *crop((2**times * rows, 2**times * columns), (height, width)),
    ])  # fmt: skip
    return encoder, decoder


def pooled_encoder(
    image_shape: Shape, layer_sizes: Sequence[int], activation: str, code_activation: str
) -> keras.Sequential:
    """Builds 3x3 convolutions of `layer_sizes` channels, a max-pooling after each.

    Each pooling halves H and W, rounded up. The code is the flattened maps of the last pooling.
    The article's encoder has two poolings.

    Raises:
      UserError: the inputs are vectors.
    """
    require_image(image_shape)
    *hidden, (last, code_channels) = enumerate(layer_sizes, start=1)
    return network("encoder", image_shape, [
        *itertools.chain.from_iterable(
            (
                conv(channels, activation=activation, name=f"conv_{number}"),
                _max_pooling(name=f"pool_{number}"),
            )
            for number, channels in hidden
        ),
        conv(code_channels, activation=code_activation, name=f"conv_{last}", dtype="float32"),
        _max_pooling(name=f"pool_{last}", dtype="float32"),
        layers.Flatten(name="code", dtype="float32"),
    ])  # fmt: skip


def pooled_decoder(
    image_shape: Shape, filters: int, code_channels: int, activation: str
) -> keras.Sequential:
    """Builds the article's decoder: three 3x3 convolutions, with an up-sampling between each two.

    The decoder maps a code [B, ceil(H/4) * ceil(W/4) * code_channels] to logits [B, H, W, C].
    """
    height, width, channels = image_shape
    rows, columns = halved(image_shape, 2)
    return network("decoder", (rows * columns * code_channels,), [
        layers.Reshape((rows, columns, code_channels), name="map"),
        conv(code_channels, activation=activation, name="conv_1"),
        layers.UpSampling2D(name="up_1"),
        conv(filters, activation=activation, name="conv_2"),
        layers.UpSampling2D(name="up_2"),
        conv(channels, name="logits", dtype="float32"),
        *crop((4 * rows, 4 * columns), (height, width)),
    ])  # fmt: skip


def _dense_layers(units: Sequence[int], activation: str) -> list[layers.Layer]:
    return [
        layers.Dense(size, activation, name=f"hidden_{number}")
        for number, size in enumerate(units, start=1)
    ]
