"""The contractive kind: its networks and its loss."""

from typing import Any

import numpy as np
import tensorflow as tf

from trainer.models import base, networks
from trainer.models.contractive import Settings
from trainer.monitoring import figures
from trainer.positions import Noise

_MEASURED_IMAGES = 100  # of the test images, whose Jacobian is decomposed
_MEASURED_AT_ONCE = 50  # so many Jacobians lie in memory


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.contractive` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        super().__init__(
            image_shape,
            *networks.dense_autoencoder(image_shape, settings, tied=settings.tied_weights),
            loss=settings.loss,
            output_activation=settings.output_activation,
        )
        self._penalty_weight = settings.penalty_weight
        self._probes = settings.probes
        self._squared_norm = {
            "closed_form": self._closed_form,
            "exact": self._exact,
            "hutchinson": self._hutchinson,
        }[settings.jacobian]

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """The reconstruction error, and `contraction`, the weighted squared norm."""
        images = tf.convert_to_tensor(images)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            codes = self.encode(images)
        squared_norm = self._squared_norm(tape, images, codes, context.noise)
        return {
            self._loss: self.error(self.decoder(codes), images),
            "contraction": self._penalty_weight * squared_norm,
        }

    def jacobian(self, images: tf.Tensor) -> tf.Tensor:
        """J of images [B, H, W, C], float32 [B, K, H, W, C]."""
        images = tf.convert_to_tensor(images)
        with tf.GradientTape() as tape:
            tape.watch(images)
            codes = self.encode(images)
        return tape.batch_jacobian(codes, images)

    def own_metrics(self, measured: base.Measured) -> dict[str, Any]:
        """How much the encoder contracts around the first test images.

        `jacobian_norm`: the mean of ||J||_F; `jacobian_norm_to_spread`: that over the root of the
        codes' total variance, which no scale of the code can change; `singular_values`: the mean
        of each of J, the largest first, as Rifai et al. plot them.
        """
        images = measured.test[:_MEASURED_IMAGES]
        values = np.concatenate([
            self._singular_values(measured, images[first : first + _MEASURED_AT_ONCE])
            for first in range(0, len(images), _MEASURED_AT_ONCE)
        ])  # fmt: skip
        norm = float(np.sqrt(np.square(values).sum(axis=1)).mean())
        spread = float(np.sqrt(measured.test_codes.var(axis=0).sum()))
        return {
            "jacobian_norm": norm,
            "jacobian_norm_to_spread": norm / spread if spread > 0 else None,
            "singular_values": values.mean(axis=0).tolist(),
        }

    def own_pictures(
        self, measured: base.Measured, metrics: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """The spectrum of singular values."""
        del measured
        values = metrics["singular_values"]
        numbers = range(1, len(values) + 1)
        means = {"mean over test images": values}
        axes = "number, the largest first", "singular value of the encoder's Jacobian"
        return {"singular_values": figures.lines(numbers, means, *axes)}

    def _singular_values(self, measured: base.Measured, images: np.ndarray) -> np.ndarray:
        jacobians = measured.map_batches(self.jacobian, images)
        matrices = jacobians.reshape(*jacobians.shape[:2], -1).astype(np.float64)
        transposed = matrices.transpose(0, 2, 1)
        # The roots of the smaller product's eigenvalues, several times faster than an SVD.
        wide = matrices.shape[1] <= matrices.shape[2]
        squares = np.linalg.eigvalsh(matrices @ transposed if wide else transposed @ matrices)
        return np.sqrt(np.maximum(squares, 0))[:, ::-1]

    def _closed_form(
        self, tape: tf.GradientTape, images: tf.Tensor, codes: tf.Tensor, noise: Noise
    ) -> tf.Tensor:
        del tape, images, noise
        kernel = tf.convert_to_tensor(self.encoder.get_layer("code").kernel)  # [H*W*C, K]
        of_units = tf.reduce_sum(tf.square(kernel), axis=0)
        return tf.linalg.matvec(tf.square(codes * (1 - codes)), of_units)

    def _exact(
        self, tape: tf.GradientTape, images: tf.Tensor, codes: tf.Tensor, noise: Noise
    ) -> tf.Tensor:
        del noise
        return _sum_of_squares(tape.batch_jacobian(codes, images))

    def _hutchinson(
        self, tape: tf.GradientTape, images: tf.Tensor, codes: tf.Tensor, noise: Noise
    ) -> tf.Tensor:
        drawn = noise.uniform("probe", (self._probes, self.code_size))
        signs = tf.unstack(tf.where(drawn < 0.5, -1.0, 1.0), axis=1)
        pulled_back = [tape.gradient(codes, images, output_gradients=v) for v in signs]
        return tf.add_n([_sum_of_squares(rows) for rows in pulled_back]) / self._probes


def _sum_of_squares(rows: tf.Tensor) -> tf.Tensor:
    """[B, ...] to [B]."""
    return tf.reduce_sum(tf.square(rows), axis=list(range(1, len(rows.shape))))
