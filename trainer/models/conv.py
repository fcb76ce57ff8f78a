"""The article's convolutional autoencoder: max-pooling down, up-sampling up."""

from trainer.models import base, networks


class Model(base.Autoencoder):
    """A code of ceil(H/4) x ceil(W/4) x code_channels; 28x28x1 images give 7x7x1 = 49 numbers."""

    def __init__(
        self,
        image_shape: tuple[int, ...],
        *,
        filters: int,
        code_channels: int,
        activation: str,
        code_activation: str,
        loss: str,
        output_activation: str,
    ):
        encoder = networks.pooled_encoder(
            image_shape, (filters, code_channels), activation, code_activation
        )
        base.require_undercomplete(encoder.output_shape[-1], image_shape)
        super().__init__(
            image_shape,
            encoder,
            networks.pooled_decoder(image_shape, filters, code_channels, activation),
            loss=loss,
            output_activation=output_activation,
        )
