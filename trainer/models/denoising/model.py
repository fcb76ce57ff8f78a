"""Builds the denoising kind: its networks, its noise and its loss."""

import tensorflow as tf

from trainer.models import base, networks
from trainer.models.denoising import Settings
from trainer.models.layer_pairs import LayerPair
from trainer.positions import Noise

_NETWORKS = {"dense": networks.dense_pair, "conv": networks.conv_pair}


def _masking(images: tf.Tensor, noise: Noise, level: float) -> tf.Tensor:
    uniform = noise.uniform("corruption", images.shape[1:])
    return tf.where(uniform < level, 0.0, images)


def _salt_and_pepper(images: tf.Tensor, noise: Noise, level: float) -> tf.Tensor:
    uniform = noise.uniform("corruption", images.shape[1:])
    return tf.where(uniform < level / 2, 0.0, tf.where(uniform < level, 1.0, images))


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
    """Implements the kind that `trainer.models.denoising` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        super().__init__(
            image_shape,
            *_NETWORKS[settings.network](
                image_shape, settings.layer_sizes, settings.activation, settings.code_activation
            ),
            loss=settings.loss,
            output_activation=settings.output_activation,
            start=settings.start,
        )
        self.corruption = settings.corruption
        self.corruption_level = settings.corruption_level

    def corrupted(self, images: tf.Tensor, noise: Noise, level: float | None = None) -> tf.Tensor:
        """Corrupts images [B, H, W, C], by default at the level of the training."""
        level = self.corruption_level if level is None else level
        return _CORRUPTIONS[self.corruption](images, noise, level)

    def check_data(self, lowest: float, highest: float) -> None:
        """Raises UserError if the data leave [0, 1], the range of salt and pepper."""
        super().check_data(lowest, highest)
        if self.corruption == "salt_and_pepper":
            others = "model.corruption='gaussian' or 'masking'"
            setting = "model.corruption='salt_and_pepper'"
            base.require_unit_interval(setting, lowest, highest, others)

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """Returns the error of restored images against the clean ones."""
        codes = self.encode(self.corrupted(images, context.noise))
        return self.error_term(self.decoder(codes), images)

    def layer_terms(
        self, pair: LayerPair, inputs: tf.Tensor, context: base.StepContext
    ) -> dict[str, tf.Tensor]:
        """Returns the error of a layer's restored inputs against the clean ones."""
        codes = pair.encode(self.corrupted(inputs, context.noise))
        return {pair.loss: pair.error(codes, inputs)}
