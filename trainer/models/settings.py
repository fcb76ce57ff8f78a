"""Declares groups of keys that several kinds share. Needs no TensorFlow."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from trainer.config import ModelSettings, key
from trainer.errors import require

# Names of keras.activations, except activations that change the shape or need arguments.
ACTIVATIONS = (
    *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu"),
    *("hard_swish", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish"),
    *("relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softmax", "softplus"),
    *("softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus", "swish", "tanh"),
    "tanh_shrink",
)


@dataclasses.dataclass(frozen=True)
class CodeSize(ModelSettings):
    """Adds the size of a code that is not the output of a convolution."""

    code_size: int = key(32, "Number of values in the code.", at_least=1)


@dataclasses.dataclass(frozen=True)
class Activation(ModelSettings):
    """Adds the activation of hidden layers."""

    activation: str = key("relu", "Activation of the hidden layers.", choices=ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class CodeActivation(ModelSettings):
    """Adds the activation of the code."""

    code_activation: str = key("linear", "Activation of the code layer.", choices=ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class Reconstruction(ModelSettings):
    """Adds the output layer and the error of a reconstruction."""

    for_vectors: ClassVar[Mapping[str, Any] | None] = {"loss": "mse", "output_activation": "linear"}

    loss: str = key(
        "mse",
        "Error of a reconstruction, a mean over the pixels; bce is in nats.",
        choices=("mse", "bce"),
    )
    output_activation: str = key(
        "sigmoid", "Activation of the output layer.", choices=("linear", "sigmoid")
    )

    def check(self) -> None:
        super().check()
        require(
            self.loss != "bce" or self.output_activation == "sigmoid",
            "model.loss='bce' needs model.output_activation='sigmoid', "
            f"not {self.output_activation!r}",
        )


@dataclasses.dataclass(frozen=True)
class Start(ModelSettings):
    """Adds the choice of the initial weights."""

    start: str = key(
        "random",
        "Initial weights; pca adds linear shortcuts, so that the untrained network is PCA.",
        choices=("random", "pca"),
    )

    def check(self) -> None:
        super().check()
        if self.start == "random":
            return
        for name, needed in (
            ("loss", "mse"),
            ("output_activation", "linear"),
            ("code_activation", "linear"),
            ("tied_weights", False),
            ("output_bias", "zeros"),  # PCA's maps hold the mean
        ):
            value = getattr(self, name, needed)
            require(
                value == needed,
                f"model.start='pca' needs model.{name}={needed!r}, not {value!r}",
            )


@dataclasses.dataclass(frozen=True)
class HiddenUnits(ModelSettings):
    """Adds the dense layers between image and code."""

    hidden_units: tuple[int, ...] = key(
        (128, 64),
        "Units of the encoder's hidden layers, mirrored in the decoder.",
        at_least=1,
    )


@dataclasses.dataclass(frozen=True)
class ConvStages(Activation):
    """Adds a network of convolutions of stride 2 and a dense layer, mirrored in the decoder."""

    stage_filters: tuple[int, ...] = key(
        (32, 64), "Channels of each convolution of stride 2, which halves the image.", at_least=1
    )
    residual_blocks: int = key(0, "Residual blocks after each convolution of stride 2.", at_least=0)
    normalisation: str = key(
        "none", "Normalisation after the convolutions.", choices=("none", "group")
    )
    kernel_initializer: str = key(
        "glorot_uniform",
        "Initial kernels of the convolutions; he_normal keeps the scale of deep relu networks.",
        choices=("glorot_uniform", "he_normal"),
    )
    dense_units: int = key(
        512,
        "Units of the dense layer between the convolutions and the code; 0: no such layer.",
        at_least=0,
    )

    def check(self) -> None:
        super().check()
        require(
            len(self.stage_filters) > 0,
            "model.stage_filters=() is not allowed; the network needs a convolution",
        )


@dataclasses.dataclass(frozen=True)
class NetworkChoice(ModelSettings):
    """Adds the choice between dense and convolutional networks."""

    network: str = key("dense", "Type of encoder and decoder.", choices=("dense", "conv"))


@dataclasses.dataclass(frozen=True)
class Network(NetworkChoice, ConvStages, HiddenUnits, CodeSize):
    """Combines the keys of a network that is dense or convolutional."""


@dataclasses.dataclass(frozen=True)
class DenseNetwork(CodeActivation, HiddenUnits, CodeSize, Reconstruction, Activation):
    """Combines the keys of a dense network and its reconstruction error."""


@dataclasses.dataclass(frozen=True)
class DenseOrTiedNetwork(DenseNetwork):
    """Adds tied weights to a dense network."""

    tied_weights: bool = key(False, "Have the decoder use the encoder's kernels, transposed.")
