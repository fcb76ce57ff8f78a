"""Builds convolutional encoders of stages that halve the image, and their mirror images.

A stage is a 3x3 convolution of stride 2, or transposed in the decoder, and residual blocks
(He et al. 2016). With group normalisation (Wu & He 2018), each convolution but the last is
normalised before its activation.
"""

import math

import keras
from keras import layers

from trainer.models.building_blocks import (
    Shape,
    conv,
    crop,
    halved,
    network,
    plain_copy,
    require_image,
    transposed_conv,
)
from trainer.models.settings import ConvStages

_MAX_GROUPS = 8


def encoder(image_shape: Shape, settings: ConvStages, code_size: int) -> keras.Sequential:
    """Builds the stages, a dense layer if it has units, and a linear code [B, code_size].

    Raises:
      UserError: the inputs are vectors.
    """
    require_image(image_shape)
    stack = []
    for stage, channels in enumerate(settings.stage_filters, start=1):
        stack += _activated(conv, channels, settings, f"{stage}", strides=2)
        stack += _residual_blocks(channels, settings, stage)
    return network("encoder", image_shape, [
        *stack,
        layers.Flatten(name="flatten"),
        *_dense(settings),
        layers.Dense(code_size, name="code", dtype="float32"),
    ])  # fmt: skip


def decoder(image_shape: Shape, settings: ConvStages, code_size: int) -> keras.Sequential:
    """Builds the mirror image of `encoder`, from a code [B, code_size] to logits [B, H, W, C]."""
    height, width, image_channels = image_shape
    *filters, last = settings.stage_filters
    times = len(settings.stage_filters)
    rows, columns = halved(image_shape, times)
    stack = _residual_blocks(last, settings, 0)
    for stage, channels in enumerate(filters[::-1], start=1):
        stack += _activated(transposed_conv, channels, settings, f"{stage}")
        stack += _residual_blocks(channels, settings, stage)
    return network("decoder", (code_size,), [
        *_dense(settings),
        layers.Dense(rows * columns * last, settings.activation, name="widen"),
        layers.Reshape((rows, columns, last), name="map"),
        *stack,
        transposed_conv(
            image_channels,
            kernel_initializer=settings.kernel_initializer,
            name="logits",
            dtype="float32",
        ),
        *crop((2**times * rows, 2**times * columns), (height, width)),
    ])  # fmt: skip


class ResidualBlock(layers.Layer):
    """Adds two convolutions, the second without an activation, to maps [B, H, W, C]."""

    def __init__(self, channels: int, settings: ConvStages, **layer_settings):
        super().__init__(**layer_settings)
        first = _activated(conv, channels, settings, "1")
        second = conv(channels, kernel_initializer="zeros", name="conv_2")  # the identity at first
        self.layers = [*first, second]

    def build(self, input_shape):
        outputs = keras.Input(batch_shape=input_shape)
        for layer in self.layers:  # a layer has the shapes of maps once it is called
            outputs = layer(outputs)

    def call(self, inputs):
        outputs = inputs
        for layer in self.layers:
            outputs = layer(outputs)
        return inputs + outputs

    def plain_keras(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Computes `call` by copies of its Keras layers, in float32."""
        outputs = inputs
        for layer in self.layers:
            outputs = plain_copy(layer, outputs, f"{self.name}_{layer.name}")
        return layers.Add(name=self.name, dtype="float32")([inputs, outputs])


def _activated(build, channels: int, settings: ConvStages, name: str, **convolution):
    """Builds a convolution, its normalisation if there is one, and its activation."""
    convolution["kernel_initializer"] = settings.kernel_initializer
    if settings.normalisation == "none":
        return [build(channels, activation=settings.activation, name=f"conv_{name}", **convolution)]
    groups = math.gcd(channels, _MAX_GROUPS)
    return [
        build(channels, name=f"conv_{name}", **convolution),
        layers.GroupNormalization(groups, name=f"norm_{name}"),
        layers.Activation(settings.activation, name=f"activation_{name}"),
    ]


def _residual_blocks(channels: int, settings: ConvStages, stage: int) -> list[layers.Layer]:
    return [
        ResidualBlock(channels, settings, name=f"residual_{stage}_{number}")
        for number in range(1, settings.residual_blocks + 1)
    ]


def _dense(settings: ConvStages) -> list[layers.Layer]:
    if not settings.dense_units:
        return []
    return [layers.Dense(settings.dense_units, settings.activation, name="hidden")]
