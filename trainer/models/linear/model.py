"""Builds the linear kind: its networks."""

import numpy as np

from trainer.models import base, networks
from trainer.models.linear import Settings


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.linear` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        size = settings.code_size
        base.require_undercomplete(size, image_shape)
        super().__init__(
            image_shape,
            networks.dense_encoder(image_shape, (), size, "linear", "linear"),
            networks.dense_decoder(image_shape, (), size, "linear"),
            loss="mse",
            output_activation="linear",
        )

    @property
    def decoder_map(self) -> np.ndarray:
        """Returns the decoder's matrix U, float32 [H*W*C, K]."""
        return self.decoder.get_layer("logits").kernel.numpy().T
