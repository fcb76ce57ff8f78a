"""Contractive: the code is made to hold still around each image (Rifai et al. 2011)."""

from collections.abc import Sequence

import tensorflow as tf

from trainer.errors import require, require_choice
from trainer.models import base, networks
from trainer.positions import Noise


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
