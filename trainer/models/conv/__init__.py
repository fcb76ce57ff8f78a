"""The article's convolutional autoencoder, with max-pooling and up-sampling.

The code is ceil(H/4) x ceil(W/4) x code_channels; images of 28x28x1 give 7x7x1 = 49 values.
"""

import dataclasses

from trainer.config import key
from trainer.models import settings

TINY = {"filters": 2}


@dataclasses.dataclass(frozen=True)
class Settings(
    settings.Start, settings.CodeActivation, settings.Reconstruction, settings.Activation
):
    """Declares the keys of the conv kind."""

    for_vectors = None

    filters: int = key(16, "Channels of the first and the last convolution.", at_least=1)
    code_channels: int = key(1, "Channels of the code.", at_least=1)
    code_activation: str = "relu"
