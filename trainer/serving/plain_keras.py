"""A trained model's two networks, built of Keras's own layers and operations alone, in float32.

They load where nothing of this project is, in Keras's safe mode. What goes before and after a
network is inside: pixels are scaled to [0, 1], vectors are taken and given in the user's units.
"""

from typing import Any

import keras
import numpy as np
from keras import layers

from trainer import data
from trainer.models.base import Autoencoder


def encoder(model: Autoencoder, scaling: data.Scaling | None, dtype: str) -> keras.Model:
    """Images [B, H, W, C], of 0 to 255 or, unless the dtype is uint8, in [0, 1], to codes [B, K].

    Or vectors, float32 [B, D].
    """
    inputs = keras.Input(model.image_shape, dtype=dtype, name=input_name(model))
    outputs = inputs
    if dtype == "uint8":
        outputs = layers.Rescaling(1 / 255, dtype="float32", name="to_unit")(outputs)
    if scaling is not None:
        # The mean of large numbers that vary little has more digits than a float32.
        most = scaling.mean.astype(np.float32).astype(np.float64)
        left = (most - scaling.mean) / scaling.std
        outputs = _rescaled(outputs, np.ones_like(most), -most, "centre")
        outputs = _rescaled(outputs, 1 / scaling.std, left, "standardise")
    for layer in model.encoder.layers:
        outputs = _applied(layer, outputs)
    return keras.Model(inputs, model.plain_keras_code(outputs), name="encoder")


def decoder(model: Autoencoder, scaling: data.Scaling | None) -> keras.Model:
    """Codes [B, K] to images [B, H, W, C], as `decode` gives them, or to vectors [B, D]."""
    inputs = keras.Input((model.code_size,), name="codes")
    outputs = inputs
    for layer in model.decoder.layers:
        outputs = _applied(layer, outputs)
    outputs = layers.Activation(model.output_activation, dtype="float32", name="output")(outputs)
    if scaling is not None:
        outputs = _rescaled(outputs, scaling.std, scaling.mean, "to_units")
    return keras.Model(inputs, outputs, name="decoder")


def input_name(model: Autoencoder) -> str:
    """What the rows are called that a model takes and gives back."""
    return "images" if len(model.image_shape) > 1 else "vectors"


def _rescaled(
    rows: keras.KerasTensor, scale: np.ndarray, offset: np.ndarray, name: str
) -> keras.KerasTensor:
    """The rows times a scale, plus an offset: not by `Normalization`, which bounds deviations."""
    layer = layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name=name)
    return layer(rows)


def _applied(layer: layers.Layer, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """A layer's outputs, by the layer of Keras's that it is or that it says."""
    if hasattr(layer, "plain_keras"):
        return layer.plain_keras(inputs)
    kinds: tuple[Any, ...] = type(layer).__mro__
    of_keras = next(kind for kind in kinds if kind.__module__.startswith("keras."))
    copy = of_keras.from_config(layer.get_config() | {"dtype": "float32"})
    outputs = copy(inputs)
    copy.set_weights(layer.get_weights())
    if isinstance(layer, layers.UpSampling2D):  # LiteRT's converter does not infer its shape
        shape = layers.Reshape(outputs.shape[1:], name=f"{layer.name}_shape", dtype="float32")
        outputs = shape(outputs)
    return outputs
