"""Restores clean images from corrupted ones (Vincent et al. 2008, 2010)."""

from collections.abc import Sequence

import tensorflow as tf

from trainer.errors import require, require_choice
from trainer.models import base, networks
from trainer.positions import Noise

_NETWORKS = {"dense": networks.dense_pair, "conv": networks.conv_pair}


def _masking(images: tf.Tensor, noise: Noise, level: float) -> tf.Tensor:
    drawn = noise.uniform("corruption", images.shape[1:])
    return tf.where(drawn < level, 0.0, images)


def _salt_and_pepper(images: tf.Tensor, noise: Noise, level: float) -> tf.Tensor:
    drawn = noise.uniform("corruption", images.shape[1:])
    return tf.where(drawn < level / 2, 0.0, tf.where(drawn < level, 1.0, images))


def _gaussian(images: tf.Tensor, noise: Noise, level: float) -> tf.Tensor:
    noisy = images + level * noise.normal("corruption", images.shape[1:])
    are_vectors = len(images.shape) == 2
    return noisy if are_vectors else tf.clip_by_value(noisy, 0.0, 1.0)


_CORRUPTIONS = {
    "masking": _masking,
    "salt_and_pepper": _salt_and_pepper,
    "gaussian": _gaussian,
}


class Model(base.Autoencoder):
    """Sees an image through new noise each time, and is measured by the clean one.

    "masking" sets a share of the pixels to 0, "salt_and_pepper" to 0 or 1 with equal chance;
    "gaussian" adds noise of that standard deviation and cuts to [0, 1]; it does not cut vectors,
    whose numbers may be any. Each channel of a pixel has its own chance. `encode` knows no noise:
    the features are those of clean images. The code may be larger than the image, since the
    identity restores nothing.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        *,
        network: str,
        layer_sizes: Sequence[int],
        corruption: str,
        corruption_level: float,
        activation: str,
        code_activation: str,
        loss: str,
        output_activation: str,
    ):
        require_choice("model.network", network, tuple(_NETWORKS))
        require_choice("model.corruption", corruption, tuple(_CORRUPTIONS))
        require(
            len(layer_sizes) > 0,
            f"model.layer_sizes={tuple(layer_sizes)} is not allowed; the last one is the code's",
        )
        require(
            0 <= corruption_level <= 1,
            f"model.corruption_level={corruption_level} is not allowed; it must be in [0, 1]",
        )
        super().__init__(
            image_shape,
            *_NETWORKS[network](image_shape, layer_sizes, activation, code_activation),
            loss=loss,
            output_activation=output_activation,
        )
        self._corruption = corruption
        self._corruption_level = corruption_level

    @property
    def corruption(self) -> str:
        """The name of the corruption."""
        return self._corruption

    @property
    def corruption_level(self) -> float:
        """The level of the corruption in training."""
        return self._corruption_level

    def corrupted(self, images: tf.Tensor, noise: Noise, level: float | None = None) -> tf.Tensor:
        """Images [B, H, W, C] corrupted, at the level of the training unless another is given."""
        level = self._corruption_level if level is None else level
        return _CORRUPTIONS[self._corruption](images, noise, level)

    def check_data(self, lowest: float, highest: float, *, binarised: bool) -> None:
        """Salt and pepper are 0 and 1."""
        super().check_data(lowest, highest, binarised=binarised)
        if self._corruption == "salt_and_pepper":
            others = "model.corruption='gaussian' or 'masking'"
            setting = "model.corruption='salt_and_pepper'"
            base.require_unit_interval(setting, lowest, highest, others)

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """The error of what is restored from the corrupted images, against the clean ones."""
        codes = self.encode(self.corrupted(images, context.noise))
        return {self._loss: self.error(self.decoder(codes), images)}
