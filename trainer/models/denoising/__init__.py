"""Restores clean images from corrupted ones (Vincent et al. 2008, 2010).

The model sees an image with new noise each time; the error is measured against the clean image.
With `corruption_level` p, "masking" sets a share p of the pixels to 0, "salt_and_pepper" to 0 or 1
with equal probability; "gaussian" adds noise of std p and clips images, but not vectors, to [0, 1].
Each channel of a pixel is corrupted independently. `encode` adds no noise, and gives the features
of clean images. The code may be larger than the image, since the identity restores nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from trainer.config import key
from trainer.errors import require
from trainer.models import settings

TINY = {
    "network": "conv",
    "layer_sizes": (4, 2),
    "start": "pca",
    "output_bias": "zeros",
    "code_activation": "linear",
    "loss": "mse",
    "output_activation": "linear",
}


@dataclasses.dataclass(frozen=True)
class Settings(
    settings.Start,
    settings.CodeActivation,
    settings.Reconstruction,
    settings.Activation,
    settings.NetworkChoice,
):
    """Declares the keys of the denoising kind."""

    for_vectors: ClassVar[Mapping[str, Any] | None] = {
        "network": "dense",
        **(settings.Reconstruction.for_vectors or {}),
    }

    layer_sizes: tuple[int, ...] = key(
        (128, 64, 32),
        "Units, or channels, of the encoder's layers, the code last; mirrored in the decoder.",
        at_least=1,
    )
    corruption: str = key(
        "gaussian",
        "Type of the noise on the images.",
        choices=("masking", "salt_and_pepper", "gaussian"),
    )
    corruption_level: float = key(
        0.4,
        "Share of the pixels that are changed, or the std of gaussian noise.",
        at_least=0,
        at_most=1,
    )

    def check(self) -> None:
        super().check()
        require(
            len(self.layer_sizes) > 0, "model.layer_sizes=() is not allowed; the last is the code's"
        )

    def stacked_layers(self) -> int:
        if self.network != "dense":
            return 0
        require(
            self.corruption != "salt_and_pepper" or self.activation == "sigmoid",
            "model.corruption='salt_and_pepper' sets hidden units to 0 or 1, so pretraining needs "
            f"model.activation='sigmoid', not {self.activation!r}",
        )
        return len(self.layer_sizes)
