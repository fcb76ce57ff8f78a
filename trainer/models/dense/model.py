"""Builds the dense kind: its networks."""

from trainer.models import base, networks
from trainer.models.dense import Settings


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.dense` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        base.require_undercomplete(settings.code_size, image_shape)
        super().__init__(
            image_shape,
            *networks.dense_autoencoder(image_shape, settings),
            loss=settings.loss,
            output_activation=settings.output_activation,
            start=settings.start,
        )
