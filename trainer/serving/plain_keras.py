"""Rebuilds a trained encoder and decoder from Keras's own layers and operations, in float32.

The networks load without this project, in Keras's safe mode, and include preprocessing: pixels are
scaled to [0, 1], vectors are standardised from the user's units and returned in the user's units.
"""

import keras
import numpy as np
from keras import layers, ops

from trainer import data
from trainer.models.base import Autoencoder
from trainer.models.building_blocks import plain_copy


def encoder(model: Autoencoder, scaling: data.Scaling | None, dtype: str) -> keras.Model:
    """Returns the network from examples to codes [B, K].

    The network takes images [B, H, W, C], from 0 to 255 if the dtype is "uint8", else in [0, 1]; or
    vectors, float32 [B, D].
    """
    inputs = keras.Input(model.image_shape, dtype=dtype, name=input_name(model))
    outputs = inputs
    if dtype == "uint8":
        outputs = layers.Rescaling(1 / 255, dtype="float32", name="to_unit")(outputs)
    if scaling is not None:
        # A float32 cannot hold all digits of the mean of large numbers that vary little: the
        # rounded mean is subtracted first, and the rest after the division by the std.
        rounded = scaling.mean.astype(np.float32).astype(np.float64)
        rest = (rounded - scaling.mean) / scaling.std
        outputs = _rescale(outputs, np.ones_like(rounded), -rounded, "centre")
        outputs = _rescale(outputs, 1 / scaling.std, rest, "standardise")
    outputs = _network(model.encoder, outputs)
    codes = model.plain_keras_code(outputs)
    if dtype != "uint8":
        # TensorFlow's fused relu turns NaN into 0, and a missing value into a plausible code.
        total = ops.sum(inputs, axis=tuple(range(1, len(inputs.shape))), keepdims=False)
        codes = ops.where(ops.isnan(total)[:, None], float("nan"), codes)
    return keras.Model(inputs, codes, name="encoder")


def decoder(model: Autoencoder, scaling: data.Scaling | None) -> keras.Model:
    """Returns the network from codes [B, K] to images [B, H, W, C] or vectors [B, D]."""
    inputs = keras.Input((model.code_size,), name="codes")
    outputs = _network(model.decoder, inputs)
    outputs = layers.Activation(model.output_activation, dtype="float32", name="output")(outputs)
    if scaling is not None:
        outputs = _rescale(outputs, scaling.std, scaling.mean, "to_units")
    return keras.Model(inputs, outputs, name="decoder")


def residuals(
    model: Autoencoder, scaling: data.Scaling | None, encoder: keras.Model
) -> keras.Model:
    """Returns the network from examples to their codes [B, K] and residuals [B, ...].

    The residuals, examples minus reconstructions, are of pixels in [0, 1] or of vectors in the
    units that the model was trained on. Takes the network of `encoder`.
    """
    name = "to_unit" if scaling is None else "standardise"
    layer = next((layer for layer in encoder.layers if layer.name == name), None)
    rows = encoder.inputs[0] if layer is None else layer.output
    (codes,) = encoder.outputs
    return keras.Model(encoder.inputs, [codes, rows - decoder(model, None)(codes)])


def input_name(model: Autoencoder) -> str:
    """Returns "images" or "vectors", the name of the encoder's input."""
    return "images" if len(model.image_shape) > 1 else "vectors"


def _rescale(
    rows: keras.KerasTensor, scale: np.ndarray, offset: np.ndarray, name: str
) -> keras.KerasTensor:
    """Returns rows * scale + offset; Keras's `Normalization` would enlarge a tiny std."""
    layer = layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name=name)
    return layer(rows)


def _network(network: keras.Model, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Applies plain copies of a network's layers, connected as in the network."""
    outputs = [inputs]

    def call(layer, inputs):
        outputs.append(_apply(layer, inputs))
        return outputs[-1]

    keras.models.clone_model(
        keras.Model(network.inputs, network.outputs),
        input_tensors=[inputs],
        clone_function=lambda layer: layer,
        call_function=call,
    )
    return outputs[-1]  # the clone itself would begin at an input of its own


def _apply(layer: layers.Layer, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Applies a layer's `plain_keras` or else a copy of its base class in Keras."""
    if hasattr(layer, "plain_keras"):
        return layer.plain_keras(inputs)
    outputs = plain_copy(layer, inputs)
    if isinstance(layer, layers.UpSampling2D):  # LiteRT's converter does not infer the shape
        shape = layers.Reshape(outputs.shape[1:], name=f"{layer.name}_shape", dtype="float32")
        outputs = shape(outputs)
    return outputs
