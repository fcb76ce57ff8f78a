"""Builds the contractive kind: its networks and its loss."""

import keras
import tensorflow as tf

from trainer.models import base, networks
from trainer.models.contractive import Settings
from trainer.models.layer_pairs import LayerPair
from trainer.positions import Noise


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.contractive` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        super().__init__(
            image_shape,
            *networks.dense_autoencoder(image_shape, settings, tied=settings.tied_weights),
            loss=settings.loss,
            output_activation=settings.output_activation,
            start=settings.start,
        )
        self._penalty_weight = settings.penalty_weight
        self._probes = settings.probes
        self._squared_norm = {
            "closed_form": self._closed_form,
            "exact": self._exact,
            "hutchinson": self._hutchinson,
        }[settings.jacobian]

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """Returns the reconstruction error, and `contraction`, the weighted squared norm."""
        images = tf.convert_to_tensor(images)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            codes = self.encode(images)
        squared_norm = self._squared_norm(tape, images, codes, context.noise)
        return {
            self._loss: self.error(self.decoder(codes), images),
            "contraction": self._penalty_weight * squared_norm,
        }

    def layer_terms(
        self, pair: LayerPair, inputs: tf.Tensor, context: base.StepContext
    ) -> dict[str, tf.Tensor]:
        """Returns the error of a layer's inputs, and `contraction` by the layer's own Jacobian."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            codes = pair.encode(inputs)
        if pair.is_sigmoid:
            squared_norm = _norm_of_sigmoid_layer(pair.kernel, codes)
        else:
            squared_norm = self._squared_norm(tape, inputs, codes, context.noise)
        return {
            pair.loss: pair.error(codes, inputs),
            "contraction": self._penalty_weight * squared_norm,
        }

    def jacobian(self, images: tf.Tensor) -> tf.Tensor:
        """Returns J of images [B, H, W, C], float32 [B, K, H, W, C]."""
        images = tf.convert_to_tensor(images)
        with tf.GradientTape() as tape:
            tape.watch(images)
            codes = self.encode(images)
        return tape.batch_jacobian(codes, images)

    def _closed_form(
        self, tape: tf.GradientTape, images: tf.Tensor, codes: tf.Tensor, noise: Noise
    ) -> tf.Tensor:
        del tape, images, noise
        return _norm_of_sigmoid_layer(self.encoder.get_layer("code").kernel, codes)

    def _exact(
        self, tape: tf.GradientTape, images: tf.Tensor, codes: tf.Tensor, noise: Noise
    ) -> tf.Tensor:
        del noise
        return _sum_of_squares(tape.batch_jacobian(codes, images))

    def _hutchinson(
        self, tape: tf.GradientTape, images: tf.Tensor, codes: tf.Tensor, noise: Noise
    ) -> tf.Tensor:
        uniform = noise.uniform("probe", (self._probes, codes.shape[1]))
        signs = tf.unstack(tf.where(uniform < 0.5, -1.0, 1.0), axis=1)
        products = [tape.gradient(codes, images, output_gradients=v) for v in signs]  # J^T v
        return tf.add_n([_sum_of_squares(rows) for rows in products]) / self._probes


def _norm_of_sigmoid_layer(kernel: keras.Variable, codes: tf.Tensor) -> tf.Tensor:
    """Returns ||J||_F^2 of a layer's codes [B, K], whose kernel is [D, K]."""
    unit_norms = tf.reduce_sum(tf.square(tf.convert_to_tensor(kernel)), axis=0)
    return tf.linalg.matvec(tf.square(codes * (1 - codes)), unit_norms)


def _sum_of_squares(rows: tf.Tensor) -> tf.Tensor:
    """Sums the squares of each row, [B, ...] to [B]."""
    return tf.reduce_sum(tf.square(rows), axis=list(range(1, len(rows.shape))))
