"""Builds the deep_conv kind: its networks."""

from trainer.models import base, stages
from trainer.models.deep_conv import Settings


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.deep_conv` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        encoder = stages.encoder(image_shape, settings, settings.code_size)
        base.require_undercomplete(settings.code_size, image_shape)
        super().__init__(
            image_shape,
            encoder,
            stages.decoder(image_shape, settings, settings.code_size),
            loss=settings.loss,
            output_activation=settings.output_activation,
            start=settings.start,
        )
