"""The sparse kind: its networks and its loss."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.models import base, networks
from trainer.models.sparse import Settings
from trainer.monitoring import figures

_ACTIVE_ABOVE = {"k_sparse": 0.0, "kl": 0.1, "l1": 0.01}  # |activation|; only k_sparse has zeros
_MARGIN = 1e-6  # keeps the logarithm of a mean activation finite
_PENALTY_SHARE = 600  # of the classifier: mean loss + |w|^2 / (2 * 600); chosen by validation
_BINS = 50


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.sparse` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        super().__init__(
            image_shape,
            *networks.dense_autoencoder(image_shape, settings, tied=settings.tied_weights),
            loss=settings.loss,
            output_activation=settings.output_activation,
        )
        self._sparsity = settings.sparsity
        self._active_units = settings.active_units
        self._first_active_units = settings.first_active_units
        self._annealing_share = settings.annealing_share
        self._test_units = round(settings.alpha * settings.active_units)
        self._target_rate = settings.target_rate
        self._penalty_weight = settings.penalty_weight

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

    def own_metrics(self, measured: base.Measured) -> dict[str, Any]:
        """How sparse the codes of the test images are.

        A unit is active where its |activation| is above `active_above`. `active_units_mean`: of an
        image; `dead_units_share`: of the units, those active in no test image;
        `mean_activations`: how many units have their mean |activation| over the images between
        each two of `mean_activation_edges`. Where there are labels to tell apart,
        `linear_classifier_error` is the share of test images told wrong from the frozen codes by
        logistic regression, as the function of that name says.
        """
        sizes = np.abs(measured.test_codes)
        active = sizes > _ACTIVE_ABOVE[self._sparsity]
        counts, edges = np.histogram(sizes.mean(axis=0), bins=_BINS)
        own = {
            "active_above": _ACTIVE_ABOVE[self._sparsity],
            "active_units_mean": float(active.sum(axis=1).mean()),
            "dead_units_share": float(1 - active.any(axis=0).mean()),
            "mean_activations": counts.tolist(),
            "mean_activation_edges": edges.tolist(),
        }
        codes, labels, test_labels = (
            measured.train_codes,
            measured.train_labels,
            measured.test_labels,
        )
        if codes is None or labels is None or test_labels is None:
            return own
        error = linear_classifier_error(codes, labels, measured.test_codes, test_labels)
        return own | {"linear_classifier_error": error}

    def own_pictures(
        self, measured: base.Measured, metrics: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """The histogram of the units' mean activations, and what the first units look at."""
        del measured
        filters = self.filters()
        assert filters is not None, "the layers are dense"
        return {
            "activations": figures.bars(
                metrics["mean_activation_edges"],
                metrics["mean_activations"],
                "mean activation over the test images",
                "units",
            ),
            "filters": filters,
        }


def linear_classifier_error(
    codes: np.ndarray, labels: np.ndarray, test_codes: np.ndarray, test_labels: np.ndarray
) -> float:
    """The share of test codes [N, K] that logistic regression on the others tells wrong.

    All units have one scale, that of the codes' root mean square: each by its own, as other codes
    are taken, the rarest would count the most. It is penalised, since 1,000 units tell all of the
    training images from each other.
    """
    from sklearn.linear_model import LogisticRegression  # a second that training does not need

    scale = max(float(np.sqrt(np.square(codes).mean())), np.finfo(np.float32).tiny)
    classifier = LogisticRegression(C=_PENALTY_SHARE / len(codes), max_iter=1000, tol=2e-4)
    return 1 - float(classifier.fit(codes / scale, labels).score(test_codes / scale, test_labels))


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
