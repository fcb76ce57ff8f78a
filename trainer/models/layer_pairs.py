"""Pretrains one layer of a dense encoder with its counterpart in the decoder.

Greedy layer-wise pretraining trains layer after layer, each as an autoencoder of the outputs of the
layers below, which stay as they are (Hinton & Salakhutdinov 2006, Bengio et al. 2007; with a
corruption of each layer's inputs Vincent et al. 2010).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from trainer.models.learner import Learner

if TYPE_CHECKING:
    from trainer.models.base import Autoencoder, StepContext


class LayerPair(Learner):
    """Reconstructs the inputs of an encoder's layer from its outputs, by the decoder's counterpart.

    Steps train it in place of the whole model: its state is the whole model's, but only the pair's
    variables are trained. Images have the error of the kind, named `loss`; of the inputs of deeper
    layers, sigmoid units have bce, all others mse.
    """

    def __init__(self, model: "Autoencoder", number: int, loss: str):
        """Takes the number of the layer, counted from 0 at the image, and the images' loss."""
        flatten, *encoder = model.encoder.layers
        *decoder, image = model.decoder.layers
        below = [flatten, *encoder[:number]]
        self.layers, self.variables = model.layers, model.variables
        self._model, self._number = model, number
        self._below = below if number else []
        self._encoder = [encoder[number]] if number else [*below, encoder[0]]
        self._decoder = decoder[::-1][number]
        self._image = image
        self.kernel: keras.Variable = encoder[number].kernel  # [inputs, units]
        self.is_sigmoid = _is_sigmoid(encoder[number])
        self.loss = loss
        if number:
            self.loss = "bce" if _is_sigmoid(self._decoder) else "mse"
        self.trainable_variables = [
            *encoder[number].trainable_variables,
            *self._decoder.trainable_variables,
        ]

    def loss_terms(self, images: tf.Tensor, context: "StepContext") -> dict[str, tf.Tensor]:
        """Returns the terms of the kind's loss of this layer, each float32 [B]."""
        inputs = tf.stop_gradient(_apply(self._below, images))
        # Layers have inputs of different sizes, whose numbers would overlap in one stream.
        noise = context.noise.section(f"layer_{self._number}")
        return self._model.layer_terms(self, inputs, dataclasses.replace(context, noise=noise))

    def encode(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the layer's outputs, float32 [B, units], of its inputs."""
        return _apply(self._encoder, inputs)

    def error(self, codes: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the mean error, float32 [B], of the inputs that the outputs reconstruct to."""
        if not self._number:
            return self._model.error(self._image(self._decoder(codes)), inputs)
        if self.loss == "bce":
            with _without_activation(self._decoder):
                logits = _apply([self._decoder], codes)
            errors = tf.nn.sigmoid_cross_entropy_with_logits(labels=inputs, logits=logits)
        else:
            errors = tf.square(_apply([self._decoder], codes) - inputs)
        return tf.reduce_mean(errors, axis=1)


def _apply(layers: list[keras.layers.Layer], inputs: tf.Tensor) -> tf.Tensor:
    """Returns the outputs of a stack of layers in float32."""
    for layer in layers:
        inputs = layer(inputs)
    return tf.cast(inputs, tf.float32)


def _is_sigmoid(layer: keras.layers.Layer) -> bool:
    return layer.activation is keras.activations.sigmoid


@contextlib.contextmanager
def _without_activation(layer: keras.layers.Layer) -> Iterator[None]:
    """Leaves a layer's activation out: a loss of its logits stays finite where units saturate."""
    activation, layer.activation = layer.activation, keras.activations.linear
    try:
        yield
    finally:
        layer.activation = activation
