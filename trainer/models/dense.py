"""Dense layers down to the code and up again."""

from collections.abc import Sequence

from trainer.models import base, networks


class Model(base.Autoencoder):
    """H*W*C - hidden_units - code_size - hidden_units reversed - H*W*C."""

    def __init__(
        self,
        image_shape: tuple[int, ...],
        *,
        code_size: int,
        hidden_units: Sequence[int],
        activation: str,
        code_activation: str,
        loss: str,
        output_activation: str,
    ):
        base.require_undercomplete(code_size, image_shape)
        super().__init__(
            image_shape,
            *networks.dense_autoencoder(
                image_shape, hidden_units, code_size, activation, code_activation, tied=False
            ),
            loss=loss,
            output_activation=output_activation,
        )
