"""Adds linear shortcuts to a network, with which a training starts at PCA.

The code is P(x) + f(x) and the reconstruction Q(code) + g(code), where f and g are the networks of
a kind and P and Q linear maps. The last layers of f and g begin at 0, P and Q at PCA's maps, so the
untrained model is PCA; then all of them are trained.
"""

import math
from typing import Protocol

import keras
import numpy as np
from keras import layers

_SCORES, _IMAGE = "pca_code", "pca_image"  # the layers P and Q


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
    """Computes statistics of training examples."""

    def pca(self, components: int) -> Pca:
        """Fits a PCA of so many components."""


def add_shortcuts(
    image_shape: tuple[int, ...], encoder: keras.Sequential, decoder: keras.Sequential
) -> tuple[keras.Model, keras.Model]:
    """Returns encoder and decoder with linear shortcuts; alone, these compute the outputs."""
    images, codes = keras.Input(image_shape), keras.Input(decoder.input_shape[1:])
    flat = layers.Flatten(name="pca_flatten", dtype="float32")(images)
    scores = layers.Dense(encoder.output_shape[-1], name=_SCORES, dtype="float32")(flat)
    values = layers.Dense(math.prod(image_shape), name=_IMAGE, dtype="float32")(codes)
    linear_image = layers.Reshape(image_shape, name="pca_reshape", dtype="float32")(values)
    return (
        _sum(images, encoder, scores, "pca_plus_code"),
        _sum(codes, decoder, linear_image, "pca_plus_image"),
    )


def set_shortcuts(
    encoder: keras.Model,
    decoder: keras.Model,
    encoder_map: np.ndarray,
    encoder_bias: np.ndarray,
    decoder_map: np.ndarray,
    decoder_bias: np.ndarray,
) -> None:
    """Sets the kernels and biases of P(x) = x @ encoder_map + encoder_bias and of Q(code)."""
    encoder.get_layer(_SCORES).set_weights([encoder_map, encoder_bias])
    decoder.get_layer(_IMAGE).set_weights([decoder_map, decoder_bias])


def _sum(
    inputs: keras.KerasTensor, stack: keras.Sequential, shortcut: keras.KerasTensor, name: str
) -> keras.Model:
    outputs = inputs
    for layer in stack.layers:
        outputs = layer(outputs)
    last = [layer for layer in stack.layers if layer.weights][-1]
    last.set_weights([np.zeros(weights.shape) for weights in last.get_weights()])
    total = layers.Add(name=name, dtype="float32")([outputs, shortcut])
    # A network of lower precision would round its inputs before the shortcut.
    return keras.Model(inputs, total, name=stack.name, dtype="float32")
