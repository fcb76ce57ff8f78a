"""Builds the deep_conv kind: its networks."""

from trainer.models import base, networks
from trainer.models.deep_conv import Settings


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.deep_conv` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        encoder = networks.strided_encoder(
            image_shape,
            settings.stage_filters,
            settings.dense_units,
            settings.code_size,
            settings.activation,
        )
        base.require_undercomplete(settings.code_size, image_shape)
        decoder = networks.strided_decoder(
            image_shape,
            settings.stage_filters,
            settings.dense_units,
            settings.code_size,
            settings.activation,
        )
        super().__init__(
            image_shape,
            encoder,
            decoder,
            loss=settings.loss,
            output_activation=settings.output_activation,
            start=settings.start,
        )
