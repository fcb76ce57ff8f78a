"""One linear map down, one up: PCA, learnt by gradient descent."""

import numpy as np

from trainer.models import base, networks


class Model(base.Autoencoder):
    """x̂ = U (V x + b) + c, trained on the squared error.

    Its error has no local minimum but the global one, where the columns of U span the principal
    subspace (Baldi & Hornik 1989); they need not be the components themselves (Plaut 2018).
    """

    def __init__(self, image_shape: tuple[int, ...], *, code_size: int):
        base.require_undercomplete(code_size, image_shape)
        super().__init__(
            image_shape,
            networks.dense_encoder(image_shape, (), code_size, "linear", "linear"),
            networks.dense_decoder(image_shape, (), code_size, "linear"),
            loss="mse",
            output_activation="linear",
        )

    @property
    def decoder_map(self) -> np.ndarray:
        """U, float32 [H*W*C, K]."""
        return self.decoder.get_layer("logits").kernel.numpy().T
