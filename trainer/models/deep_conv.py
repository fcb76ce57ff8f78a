"""Strided convolutions and a dense bottleneck: what the article's code size can really hold."""

from trainer.models import base, networks


class Model(base.Autoencoder):
    """Two convolutions of stride 2, a dense layer, a linear code of any size; mirrored."""

    def __init__(
        self,
        image_shape: tuple[int, ...],
        *,
        code_size: int,
        stage_filters: tuple[int, int],
        dense_units: int,
        activation: str,
        loss: str,
        output_activation: str,
    ):
        encoder = networks.strided_encoder(
            image_shape, stage_filters, dense_units, code_size, activation
        )
        base.require_undercomplete(code_size, image_shape)
        super().__init__(
            image_shape,
            encoder,
            networks.strided_decoder(
                image_shape, stage_filters, dense_units, code_size, activation
            ),
            loss=loss,
            output_activation=output_activation,
        )
