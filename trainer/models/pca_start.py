"""Adds linear shortcuts to a network, with which a training starts at PCA.

The code is P(x) + f(x) and the reconstruction Q(code) + g(code), where f and g are the networks of
a kind and P and Q linear maps. The last layers of f and g begin at 0, P and Q at PCA's maps, so the
untrained model is PCA; then all of them are trained.

Adam changes each weight by about the learning rate, however many inputs a layer has, and the
outputs of a map of thousands of pixels by far more than PCA's smaller components. So a map is a
dense layer times a constant, `_gain`, which makes weights of about 1 of PCA's maps.
"""

import functools
import math
from typing import Protocol

import keras
import numpy as np
from keras import layers

_ENCODER, _DECODER = "pca_code", "pca_image"  # the dense layers of P and Q


class Pca(Protocol):
    """Holds K principal components of examples of D values."""

    @property
    def mean(self) -> np.ndarray:
        """Returns the mean example [D]."""

    @property
    def encoder_map(self) -> np.ndarray:
        """Returns the map [D, K] from centred examples to scores."""

    @property
    def decoder_map(self) -> np.ndarray:
        """Returns the map [K, D] from scores to centred examples."""

    @property
    def variances(self) -> np.ndarray:
        """Returns the variances of the scores [K]."""


class Statistics(Protocol):
    """Computes statistics of training examples of D values."""

    def mean(self) -> np.ndarray:
        """Returns the mean example [D]."""

    def pca(self, components: int) -> Pca:
        """Fits a PCA of so many components."""


def add_shortcuts(
    image_shape: tuple[int, ...], encoder: keras.Sequential, decoder: keras.Sequential
) -> tuple[keras.Model, keras.Model]:
    """Returns encoder and decoder with linear shortcuts, whose weights `set_shortcuts` sets."""
    values, code_size = math.prod(image_shape), decoder.input_shape[-1]
    flat = layers.Flatten(name="pca_flatten", dtype="float32")
    shape = layers.Reshape(image_shape, name="pca_reshape", dtype="float32")
    return (
        _sum(encoder, [flat, *_linear(_ENCODER, encoder.output_shape[-1], values, code_size)]),
        _sum(decoder, [*_linear(_DECODER, values, values, code_size), shape]),
    )


def set_shortcuts(
    encoder: keras.Model,
    decoder: keras.Model,
    encoder_map: np.ndarray,
    encoder_bias: np.ndarray,
    decoder_map: np.ndarray,
    decoder_bias: np.ndarray,
) -> None:
    """Sets P(x) = x @ encoder_map + encoder_bias, and Q(code) likewise."""
    values, code_size = decoder_map.shape[::-1]
    for network, name, kernel, bias in (
        (encoder, _ENCODER, encoder_map, encoder_bias),
        (decoder, _DECODER, decoder_map, decoder_bias),
    ):
        gain = _gain(name, values, code_size)
        network.get_layer(name).set_weights([kernel / gain, bias / gain])


def _linear(name: str, units: int, values: int, code_size: int) -> list[layers.Layer]:
    return [
        layers.Dense(units, name=name, dtype="float32"),
        layers.Rescaling(_gain(name, values, code_size), name=f"{name}_gain", dtype="float32"),
    ]


def _gain(name: str, values: int, code_size: int) -> float:
    """Returns the size of the weights of PCA's maps, of values of variance 1 and codes of 1."""
    return math.sqrt(code_size) / values if name == _ENCODER else 1 / math.sqrt(code_size)


def _sum(network: keras.Sequential, shortcut: list[layers.Layer]) -> keras.Model:
    """Returns the sum of two stacks of layers; the last layer of the network begins at 0."""
    last = [layer for layer in network.layers if layer.weights][-1]
    last.set_weights([np.zeros(weights.shape) for weights in last.get_weights()])
    inputs = keras.Input(network.input_shape[1:])
    outputs = [functools.reduce(_apply, stack, inputs) for stack in (network.layers, shortcut)]
    total = layers.Add(name=f"{network.name}_sum", dtype="float32")(outputs)
    # A network of lower precision would round its inputs before the shortcut.
    return keras.Model(inputs, total, name=network.name, dtype="float32")


def _apply(inputs: keras.KerasTensor, layer: layers.Layer) -> keras.KerasTensor:
    return layer(inputs)
