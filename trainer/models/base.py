"""The contract of every kind: encode, decode, and loss terms per example."""

import math
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import require, require_choice
from trainer.positions import Noise

if TYPE_CHECKING:
    from sklearn.decomposition import PCA  # a second of start-up that training does not need

_LOSSES = ("mse", "bce")
_OUTPUT_ACTIVATIONS = ("linear", "sigmoid")


class Autoencoder(keras.Model):
    """Reconstructs images [B, H, W, C], pixels in [0, 1], from a code [B, K].

    `encoder` maps images to the code, `decoder` maps the code to logits: the reconstruction before
    the output activation; both end in float32. The view is one replica's; nothing here knows how
    many there are.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        encoder: keras.Sequential,
        decoder: keras.Sequential,
        *,
        loss: str,
        output_activation: str,
    ):
        """Takes networks already built, the loss ("mse", "bce") and "linear" or "sigmoid".

        Raises:
          UserError: a name is not known, or "bce" is asked of an output that is no probability.
        """
        super().__init__()
        require_choice("model.loss", loss, _LOSSES)
        require_choice("model.output_activation", output_activation, _OUTPUT_ACTIVATIONS)
        require(
            loss != "bce" or output_activation == "sigmoid",
            f"model.loss='bce' needs model.output_activation='sigmoid', not {output_activation!r}",
        )
        self.image_shape = image_shape
        self.encoder = encoder
        self.decoder = decoder
        self._loss = loss
        self._output_activation = output_activation
        self.built = True

    @property
    def code_size(self) -> int:
        """K, the numbers in a code."""
        return self.encoder.output_shape[-1]

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Images [B, H, W, C] to codes, float32 [B, K]."""
        return self.encoder(images)

    def decode(self, codes: tf.Tensor) -> tf.Tensor:
        """Codes [B, K] to reconstructions, float32 [B, H, W, C]."""
        return self._output(self.decoder(codes))

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Images to reconstructions, both [B, H, W, C]."""
        return self.decode(self.encode(images))

    def loss_terms(self, images: tf.Tensor, noise: Noise) -> dict[str, tf.Tensor]:
        """What training minimises the sum of: each term float32 [B], a mean over the pixels.

        `mse` is the squared error; `bce` the binary cross-entropy in nats, from the logits.
        `noise` serves the kinds that draw some: B rows, one for each example's position.
        """
        del noise
        logits = self.decoder(self.encode(images))
        if self._loss == "bce":
            error = tf.nn.sigmoid_cross_entropy_with_logits(labels=images, logits=logits)
        else:
            error = tf.square(self._output(logits) - images)
        return {self._loss: tf.reduce_mean(error, axis=[1, 2, 3])}

    def own_metrics(self, train_images: np.ndarray, pca: "PCA") -> dict[str, float | list[float]]:
        """What only this kind is asked, for `metrics.json`; nothing unless a kind says so.

        Takes the training images [N, H, W, C] in [0, 1] and the PCA fitted on them with K
        components.
        """
        del train_images, pca
        return {}

    def _output(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(logits) if self._output_activation == "sigmoid" else logits


def require_undercomplete(code_size: int, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError if the code is empty or larger than the image it should compress."""
    pixels = math.prod(image_shape)
    require(
        1 <= code_size <= pixels,
        f"model.code_size={code_size} is not allowed here; an image of "
        f"{'x'.join(map(str, image_shape))} allows 1 to {pixels}",
    )
