"""Builds the dense kind: its networks, and dropout in its training."""

import tensorflow as tf

from trainer.models import base, networks
from trainer.models.dense import Settings
from trainer.models.dropout import hidden_layers, outputs_dropped


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
        self._dropout = settings.dropout

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """Returns the reconstruction error, in training with dropout of the hidden units."""
        share = self._dropout if context.training else 0.0
        # The decoder's layers have the names of the encoder's.
        of_decoder = context.noise.section("decoder")
        with (
            outputs_dropped(hidden_layers(self.encoder), share, context.noise),
            outputs_dropped(hidden_layers(self.decoder), share, of_decoder),
        ):
            return super().loss_terms(images, context)
