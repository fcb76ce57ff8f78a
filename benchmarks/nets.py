"""The nets that every side trains, as plain data: the encoder and decoder of each config in one."""

from typing import NamedTuple

IMAGE_SHAPE = (28, 28, 1)


class Layer(NamedTuple):
    """One layer: `size` is its units or channels; `stride` that of a convolution or a pooling."""

    kind: str  # dense, conv, transposed, pool, up, flatten, map (7 x 7 x size), sample (of a vae)
    size: int = 0
    stride: int = 1
    activation: str = "linear"


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
        *(_FLATTEN, *_dense(1000, 500, 250), Layer("dense", 30)),
        *(*_dense(250, 500, 1000), Layer("dense", 784, activation="sigmoid")),
    ],
    # Dynamically binarised at the input; the loss is the negative ELBO.
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
