"""Contractive: the code is made to hold still around each image (Rifai et al. 2011)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.errors import require, require_choice
from trainer.models import base, networks
from trainer.monitoring import figures
from trainer.positions import Noise

_MEASURED_IMAGES = 100  # of the test images, whose Jacobian is decomposed
_MEASURED_AT_ONCE = 50  # so many Jacobians lie in memory


class Model(base.Autoencoder):
    """A reconstruction error + penalty_weight * ||J||_F^2, J = dh/dx [K, H*W*C] of the encoder.

    `jacobian` says how the norm is found:

    - "closed_form", for one layer h = sigmoid(W x + b): sum_i (h_i (1 - h_i))^2 sum_j W_ij^2;
    - "exact", for any encoder, at a cost that grows with K;
    - "hutchinson", an estimate without bias: the mean of ||J^T v||^2 over `probes` vectors v of
      random signs (Hutchinson 1989), at the cost of one more pass backwards for each.

    Without `tied_weights` an encoder can shrink its code for nothing, since the decoder grows it
    back.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        *,
        code_size: int,
        hidden_units: Sequence[int],
        tied_weights: bool,
        penalty_weight: float,
        jacobian: str,
        probes: int,
        activation: str,
        code_activation: str,
        loss: str,
        output_activation: str,
    ):
        squared_norms = {
            "closed_form": self._closed_form,
            "exact": self._exact,
            "hutchinson": self._hutchinson,
        }
        require_choice("model.jacobian", jacobian, tuple(squared_norms))
        require(
            jacobian != "closed_form" or (not hidden_units and code_activation == "sigmoid"),
            "model.jacobian='closed_form' needs model.hidden_units=() and "
            f"model.code_activation='sigmoid', not {tuple(hidden_units)} and {code_activation!r}; "
            "exact and hutchinson take any",
        )
        encoder, decoder = networks.dense_autoencoder(
            image_shape, hidden_units, code_size, activation, code_activation, tied=tied_weights
        )
        super().__init__(
            image_shape, encoder, decoder, loss=loss, output_activation=output_activation
        )
        self._penalty_weight = penalty_weight
        self._probes = probes
        self._squared_norm = squared_norms[jacobian]

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
