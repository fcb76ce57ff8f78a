"""Builds the conv kind: its networks."""

from trainer.models import base, networks
from trainer.models.conv import Settings


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.conv` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        filters, channels = settings.filters, settings.code_channels
        encoder = networks.pooled_encoder(
            image_shape, (filters, channels), settings.activation, settings.code_activation
        )
        base.require_undercomplete(encoder.output_shape[-1], image_shape)
        super().__init__(
            image_shape,
            encoder,
            networks.pooled_decoder(image_shape, filters, channels, settings.activation),
            loss=settings.loss,
            output_activation=settings.output_activation,
            start=settings.start,
        )
