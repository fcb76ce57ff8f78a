"""Lists the nets that every framework trains: encoder and decoder of a config as plain data."""

import math
from typing import NamedTuple

IMAGE_SHAPE: tuple[int, ...] = (28, 28, 1)
WITH_WEIGHTS = ("dense", "conv", "transposed")  # the kinds of layers that have a kernel and a bias


class Layer(NamedTuple):
    """Describes one layer of a net."""

    kind: str  # dense, conv, transposed, pool, up, flatten, map (7 x 7 x size), sample (of a vae)
    size: int = 0  # units or channels
    stride: int = 1  # of a convolution or a pooling, or the factor of an upsampling
    activation: str = "linear"


def output_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a layer's output shape for an input shape: (height, width, channels) or (units,)."""
    *sides, channels = shape
    match layer.kind:
        case "conv" | "pool":
            sides = [-(-side // layer.stride) for side in sides]
        case "transposed" | "up":
            sides = [side * layer.stride for side in sides]
        case "flatten":
            return (math.prod(shape),)
        case "map":
            return (7, 7, layer.size)
    return (*sides, layer.size or channels)


def _dense(*units: int, activation: str = "relu") -> list[Layer]:
    return [Layer("dense", size, activation=activation) for size in units]


def _conv(channels: int, stride: int = 1) -> Layer:
    return Layer("conv", channels, stride, "relu")


_POOL, _UP, _FLATTEN = Layer("pool", stride=2), Layer("up", stride=2), Layer("flatten")

NETS: dict[str, list[Layer]] = {
    "dense": [
        *(_FLATTEN, *_dense(128, 64), Layer("dense", 32)),
        *(*_dense(64, 128), Layer("dense", 784, activation="sigmoid")),
    ],
    "conv": [
        *(_conv(16), _POOL, _conv(1), _POOL),
        *(_conv(1), _UP, _conv(16), _UP, Layer("conv", 1, activation="sigmoid")),
    ],
    "deep": [
        *(_FLATTEN, *_dense(1000, 500, 250, activation="tanh"), Layer("dense", 30)),
        *_dense(250, 500, 1000, activation="tanh"),
        Layer("dense", 784, activation="sigmoid"),
    ],
    # Each step binarises the images again; the loss is the negative ELBO.
    "vae": [
        *(_FLATTEN, *_dense(200, 200, activation="tanh"), Layer("dense", 100)),
        *(Layer("sample", 50), *_dense(200, 200, activation="tanh"), Layer("dense", 784)),
    ],
    "deep_conv": [
        *(_conv(32, 2), _conv(64, 2), _FLATTEN, *_dense(512), Layer("dense", 49)),
        *(*_dense(512, 7 * 7 * 64), Layer("map", 64)),
        Layer("transposed", 32, 2, "relu"),
        Layer("transposed", 1, 2, "sigmoid"),
    ],
}
