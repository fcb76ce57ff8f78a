"""Sparse: a code of more units than the image has pixels, few of them active at a time."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from trainer.errors import require, require_choice
from trainer.models import base, networks

_ACTIVE_ABOVE = {"k_sparse": 0.0, "kl": 0.1, "l1": 0.01}  # |activation|; only k_sparse has zeros
_MARGIN = 1e-6  # keeps the logarithm of a mean activation finite


class Model(base.Autoencoder):
    """A reconstruction error from a sparse code; `sparsity` says what makes it so.

    - "k_sparse": the k largest activations of an image are kept, the others set to 0 (Makhzani &
      Frey 2013). In training k falls linearly from `first_active_units` to `active_units` over the
      `annealing_share` of the steps, since units die where it begins small; at test time
      `alpha * active_units` are kept.
    - "kl": penalty_weight * sum_j KL(target_rate || the mean of unit j over the global batch)
      between Bernoulli distributions (Ng 2011, CS294A).
    - "l1": penalty_weight * sum_j |h_j| of each image.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        *,
        code_size: int,
        hidden_units: Sequence[int],
        tied_weights: bool,
        sparsity: str,
        active_units: int,
        first_active_units: int,
        annealing_share: float,
        alpha: float,
        target_rate: float,
        penalty_weight: float,
        activation: str,
        code_activation: str,
        loss: str,
        output_activation: str,
    ):
        require_choice("model.sparsity", sparsity, tuple(_ACTIVE_ABOVE))
        require(
            sparsity != "k_sparse" or active_units <= first_active_units <= code_size,
            f"model.active_units={active_units} and model.first_active_units={first_active_units} "
            f"are not allowed; they rise in this order up to model.code_size={code_size}",
        )
        require(
            sparsity != "k_sparse" or 1 <= alpha <= code_size / active_units,
            f"model.alpha={alpha} is not allowed; model.active_units={active_units} of "
            f"{code_size} allow 1 to {code_size / active_units:g}",
        )
        require(
            annealing_share <= 1,
            f"model.annealing_share={annealing_share} is not allowed; it must be at most 1",
        )
        require(
            0 < target_rate < 1,
            f"model.target_rate={target_rate} is not allowed; it lies between 0 and 1",
        )
        require(
            sparsity != "kl" or code_activation == "sigmoid",
            f"model.sparsity='kl' needs model.code_activation='sigmoid', not {code_activation!r}",
        )
        encoder, decoder = networks.dense_autoencoder(
            image_shape, hidden_units, code_size, activation, code_activation, tied=tied_weights
        )
        super().__init__(
            image_shape, encoder, decoder, loss=loss, output_activation=output_activation
        )
        self._sparsity = sparsity
        self._active_units = active_units
        self._first_active_units = first_active_units
        self._annealing_share = annealing_share
        self._test_units = round(alpha * active_units)
        self._target_rate = target_rate
        self._penalty_weight = penalty_weight

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Images [B, H, W, C] to the codes of test time, float32 [B, K]."""
        activations = self.encoder(images)
        if self._sparsity != "k_sparse":
            return activations
        return keep_largest(activations, self._test_units, most=self._test_units)

    def plain_keras_code(self, encoded: keras.KerasTensor) -> keras.KerasTensor:
        """The activations that `encode` keeps; of equal ones the first, too."""
        if self._sparsity != "k_sparse":
            return encoded
        _, places = keras.ops.top_k(encoded, self._test_units)
        return encoded * keras.ops.sum(keras.ops.one_hot(places, self.code_size), axis=1)

    def statistics(self, images: tf.Tensor) -> tf.Tensor | None:
        """The activations of "kl", float32 [B, K]."""
        return self.encoder(images) if self._sparsity == "kl" else None

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """The reconstruction error and, of "kl" and "l1", the weighted penalty under that name."""
        if self._sparsity == "k_sparse" and context.training:
            kept = self.kept_units(context.progress)
            codes = keep_largest(self.encoder(images), kept, most=self._first_active_units)
        else:
            codes = self.encode(images)
        terms = {self._loss: self.error(self.decoder(codes), images)}
        if self._sparsity == "kl":
            rates = base.means_of_each(context.batch_means, codes)
            penalty = tf.reduce_sum(bernoulli_kl_nats(self._target_rate, rates), axis=1)
            terms["kl"] = self._penalty_weight * penalty
        elif self._sparsity == "l1":
            terms["l1"] = self._penalty_weight * tf.reduce_sum(tf.abs(codes), axis=1)
        return terms

    def kept_units(self, progress: tf.Tensor) -> tf.Tensor:
        """How many units "k_sparse" keeps at this share of the training, int32 []."""
        if self._annealing_share == 0:
            return tf.constant(self._active_units)
        done = tf.minimum(progress / self._annealing_share, 1.0)
        fall = self._first_active_units - self._active_units
        return tf.cast(tf.round(self._first_active_units - done * fall), tf.int32)

    @property
    def active_above(self) -> float:
        """The |activation| above which a unit counts as active."""
        return _ACTIVE_ABOVE[self._sparsity]


def keep_largest(activations: tf.Tensor, count: int | tf.Tensor, *, most: int) -> tf.Tensor:
    """Activations [B, K], all but exactly the `count` <= `most` largest of each row set to 0.

    Of equal ones the first are kept.
    """
    # By comparisons, since XLA on a GPU would scatter a mask one element after the other; of
    # floats, since TensorFlow compares int32 on the host. A NaN is not dropped: it must be seen.
    unit = tf.range(activations.shape[1], dtype=tf.float32)
    largest, units = tf.math.top_k(tf.stop_gradient(activations), most)  # [B, most], descending
    least_kept = tf.gather(largest, [count - 1], axis=1)
    last_unit = tf.cast(tf.gather(units, [count - 1], axis=1), tf.float32)
    # Of equal activations top_k returns the first unit first.
    equal_but_later = (activations == least_kept) & (unit > last_unit)
    dropped = (activations < least_kept) | equal_but_later
    return activations * tf.cast(~dropped, activations.dtype)


def bernoulli_kl_nats(target: float, rates: tf.Tensor) -> tf.Tensor:
    """KL(Bernoulli(target) || Bernoulli(rate)) in nats, of each rate."""
    inside = tf.clip_by_value(rates, _MARGIN, 1 - _MARGIN)
    return target * tf.math.log(target / inside) + (1 - target) * tf.math.log(
        (1 - target) / (1 - inside)
    )
