"""Sets a share of values to 0 in training, drawn by position (Srivastava et al. 2014)."""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from trainer.positions import Noise


def dropout(rows: tf.Tensor, share: float, noise: Noise, purpose: str) -> tf.Tensor:
    """Sets a share of the values of rows [B, ...] to 0 and divides the others by 1 - share.

    So the mean over the noise is the row itself.
    """
    if share == 0:
        return rows
    kept = noise.uniform(purpose, tuple(rows.shape[1:])) >= share
    return tf.where(kept, rows / (1 - share), tf.zeros_like(rows))


def hidden_layers(network: keras.Model) -> list[keras.layers.Dense]:
    """Returns the dense layers of a network, except for the code and the logits."""
    return [
        layer
        for layer in network.layers
        if isinstance(layer, keras.layers.Dense) and layer.name.startswith("hidden")
    ]


@contextlib.contextmanager
def outputs_dropped(
    layers: Sequence[keras.layers.Dense], share: float, noise: Noise
) -> Iterator[None]:
    """Applies dropout to the outputs of layers while a step is traced."""

    def dropped(layer, activation, inputs):
        return dropout(activation(inputs), share, noise, f"{layer.name}_dropout")

    activations = [layer.activation for layer in layers]
    for layer, activation in zip(layers, activations, strict=True):
        layer.activation = functools.partial(dropped, layer, activation)
    try:
        yield
    finally:
        for layer, activation in zip(layers, activations, strict=True):
            layer.activation = activation
