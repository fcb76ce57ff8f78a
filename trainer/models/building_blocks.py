"""Builds the parts that dense and convolutional networks share."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from trainer.errors import require

Shape = tuple[int, ...]  # (H, W, C) of images; dense layers take (D,) of vectors too

conv = functools.partial(layers.Conv2D, kernel_size=3, padding="same")
transposed_conv = functools.partial(
    layers.Conv2DTranspose, kernel_size=3, strides=2, padding="same"
)


def network(
    name: str, input_shape: tuple[int, ...], stack: Sequence[layers.Layer]
) -> keras.Sequential:
    """Builds a stack; the layers' names differ, since checkpoints store variables by path."""
    for layer in stack:
        for part in getattr(layer, "layers", [layer]):
            if getattr(part, "activation", None) is keras.activations.silu:
                part.activation = silu
    return keras.Sequential([keras.Input(input_shape), *stack], name=name)


def silu(x: keras.KerasTensor) -> keras.KerasTensor:
    """Computes SiLU, x * sigmoid(x); a layer's config still says "silu".

    `tf.nn.silu` registers a gradient for each traced graph, which keeps the graph in memory.
    """
    return x * keras.ops.sigmoid(x)


def plain_copy(
    layer: layers.Layer, inputs: keras.KerasTensor, name: str | None = None
) -> keras.KerasTensor:
    """Applies a copy of a layer, of its class in Keras and in float32, with the same weights."""
    bases: tuple[Any, ...] = type(layer).__mro__
    keras_layer = next(base for base in bases if base.__module__.startswith("keras."))
    changes = {"dtype": "float32", "name": name or layer.name}
    copy = keras_layer.from_config(layer.get_config() | changes)
    outputs = copy(inputs)
    copy.set_weights(layer.get_weights())
    return outputs


def require_image(shape: Shape) -> None:
    """Raises UserError if the inputs of convolutions are vectors."""
    require(
        len(shape) == 3,
        f"convolutions need images [H, W, C], not vectors of {shape[0]} numbers; vectors need a "
        "model.name with dense layers, or model.network='dense' if the kind has both",
    )


def halved(image_shape: Shape, times: int) -> tuple[int, int]:
    """Returns rows and columns after halving them `times` times, rounded up."""
    return -(-image_shape[0] // 2**times), -(-image_shape[1] // 2**times)


def crop(size: tuple[int, int], cropped: tuple[int, int]) -> list[layers.Layer]:
    """Builds a layer, if needed, that cuts off the rows and columns added by rounding up."""
    extra = size[0] - cropped[0], size[1] - cropped[1]
    if extra == (0, 0):
        return []
    return [layers.Cropping2D(((0, extra[0]), (0, extra[1])), name="crop", dtype="float32")]
