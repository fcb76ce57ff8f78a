"""Builds the sparse kind: its networks and its loss."""

from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from trainer.models import base, networks
from trainer.models.largest import is_largest
from trainer.models.learner import Replacements, StateUpdates
from trainer.models.sparse import Settings
from trainer.positions import Noise

# the |activation| above which a unit counts as active
_ACTIVE_ABOVE = {"k_sparse": 0.0, "batch_topk": 0.0, "kl": 0.1, "l1": 0.01, "jumprelu": 0.0}
_MARGIN = 1e-6  # keeps the logarithm of a mean activation finite


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.sparse` describes."""

    logged_terms = frozenset({"l0"})

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        super().__init__(
            image_shape,
            *networks.dense_autoencoder(image_shape, settings, tied=settings.tied_weights),
            loss=settings.loss,
            output_activation=settings.output_activation,
        )
        if settings.initial_std:
            _initialise_kernels([*self.encoder.layers, *self.decoder.layers], settings.initial_std)
        self._settings = settings
        self.active_above = _ACTIVE_ABOVE[settings.sparsity]
        self._test_units = round(settings.alpha * settings.active_units)
        self._log_thresholds = None  # of jumprelu, log(threshold / first_threshold)
        if settings.sparsity == "jumprelu":
            shape = (settings.code_size,)
            self._log_thresholds = keras.Variable("zeros", shape, "float32", name="log_thresholds")
        self.threshold = None  # of "batch_topk" at test time; 0: no step has kept an activation
        if settings.sparsity == "batch_topk":
            self.threshold = keras.Variable(
                "zeros", (), "float32", trainable=False, name="threshold"
            )
        self.resample_every_steps = settings.resample_every_steps
        self.idle_steps = None  # since each unit was last active
        if settings.auxiliary_weight or settings.resample_every_steps:
            shape = (settings.code_size,)
            self.idle_steps = keras.Variable(
                "zeros", shape, "float32", trainable=False, name="idle_steps"
            )

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the codes of images [B, H, W, C] at test time, float32 [B, K]."""
        return self._test_codes(self.encoder(images))

    @property
    def thresholds(self) -> tf.Tensor:
        """Returns the thresholds of "jumprelu", float32 [K]."""
        return self._settings.first_threshold * tf.exp(tf.convert_to_tensor(self._log_thresholds))

    def plain_keras_code(self, encoded: keras.KerasTensor) -> keras.KerasTensor:
        """Keeps the activations that `encode` keeps, and likewise the first of equal ones."""
        if self._settings.sparsity == "jumprelu":
            above = keras.ops.greater(encoded, self.thresholds.numpy().tolist())
            return encoded * keras.ops.cast(above, "float32")
        if self.threshold is not None:
            above = keras.ops.greater_equal(encoded, float(self.threshold.numpy()))
            return encoded * keras.ops.cast(above, "float32")
        if self._settings.sparsity != "k_sparse":
            return encoded
        _, units = keras.ops.top_k(encoded, self._test_units)
        return encoded * keras.ops.sum(keras.ops.one_hot(units, self.code_size), axis=1)

    def statistics(self, images: tf.Tensor) -> tf.Tensor | None:
        """Returns the activations, float32 [B, K], if "kl" needs their batch means."""
        return self.encoder(images) if self._settings.sparsity == "kl" else None

    def shared_values(self, images: tf.Tensor) -> tf.Tensor | None:
        """Returns the activations, float32 [B, K], of which "batch_topk" keeps the largest."""
        return self.encoder(images) if self._settings.sparsity == "batch_topk" else None

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """Returns the reconstruction error and perhaps `kl`, `l1`, `l0_penalty` or `auxiliary`.

        With "jumprelu" also `l0`, the number of active units, which is logged alone.
        """
        return self.training_terms(images, context)[0]

    def training_terms(
        self, images: tf.Tensor, context: base.StepContext
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        """Returns the loss terms, and values that change the state.

        With "batch_topk": the smallest activation that is kept, [B, 1]; then, if idle units are
        counted: which are active, [B, K].
        """
        activations = self.encoder(images)
        smallest = self._smallest_kept(context)
        codes = self._codes(activations, context, smallest)
        logits = self.decoder(codes)
        terms = self.error_term(logits, images)
        terms |= self._penalties(activations, codes, context)
        state = []
        if smallest is not None:
            state.append(tf.fill([images.shape[0], 1], smallest))
        if self.idle_steps is not None and context.training:
            state.append(tf.cast(tf.abs(codes) > self.active_above, tf.float32))
            if self._settings.auxiliary_weight:
                auxiliary = self.auxiliary_error(images, activations, logits)
                terms["auxiliary"] = self._settings.auxiliary_weight * auxiliary
        return terms, tf.concat(state, axis=1) if state else None

    def state_updates(self, batch_means: tf.Tensor) -> StateUpdates:
        """Returns the new `threshold`, and `idle_steps` by each unit's share of active codes."""
        updates = []
        if self.threshold is not None:
            old, decay = tf.convert_to_tensor(self.threshold), self._settings.threshold_decay
            smallest, batch_means = batch_means[0], batch_means[1:]
            new = tf.where(old > 0, decay * old + (1 - decay) * smallest, smallest)
            updates.append((self.threshold, tf.where(tf.math.is_inf(smallest), old, new)))
        if self.idle_steps is not None:
            idle_steps = tf.convert_to_tensor(self.idle_steps)
            updates.append((self.idle_steps, tf.where(batch_means > 0, 0.0, idle_steps + 1)))
        return updates

    def resampling_values(self, images: tf.Tensor, noise: Noise) -> tf.Tensor:
        """Returns each example's rank value and pixels, float32 [B, 1 + D].

        The largest n of log(error ** 2) plus Gumbel noise are a draw of n examples without
        replacement, with probabilities proportional to the squared errors.
        """
        errors = self.error(self.decoder(self.encode(images)), images)
        ranked = 2 * tf.math.log(errors) + noise.gumbel("resampling", ())
        return tf.concat([ranked[:, None], tf.reshape(images, [images.shape[0], -1])], axis=1)

    def resampled(self, batch_values: tf.Tensor) -> Replacements:
        """Gives the first B dead units weights along B drawn examples; each counts as active."""
        dead = tf.convert_to_tensor(self.idle_steps) >= self._settings.dead_after_steps
        # Each dead unit's, from 0 on; a float, since TensorFlow sums int32 on the host.
        number = tf.cumsum(tf.cast(dead, tf.float32)) - 1
        size = batch_values.shape[0]
        replaced = dead & (number < size)
        _, drawn = tf.math.top_k(batch_values[:, 0], size)
        row = tf.cast(tf.clip_by_value(number, 0, size - 1), tf.int32)
        inputs = batch_values[:, 1:]
        mean = tf.reduce_mean(inputs, axis=0)
        deviations = tf.gather(inputs, tf.gather(drawn, row)) - mean
        directions = tf.math.divide_no_nan(deviations, tf.norm(deviations, axis=1, keepdims=True))

        code = self.encoder.get_layer("code")
        rows = tf.transpose(tf.convert_to_tensor(code.kernel))
        weights = self._settings.resample_norm * _mean_norm(rows, dead) * directions
        replacements = [
            (code.kernel, replaced, tf.transpose(weights)),
            (code.bias, replaced, -tf.linalg.matvec(weights, mean)),
            (self.idle_steps, replaced, tf.zeros_like(number)),
        ]
        if not self._settings.tied_weights:
            kernel = self.decoder.get_layer("logits").kernel
            decoder_norm = _mean_norm(tf.convert_to_tensor(kernel), dead)
            replacements.append((kernel, replaced[:, None], decoder_norm * directions))
        if self._log_thresholds is not None:
            replacements.append((self._log_thresholds, replaced, tf.zeros_like(number)))
        return replacements

    def auxiliary_error(
        self, images: tf.Tensor, activations: tf.Tensor, logits: tf.Tensor
    ) -> tf.Tensor:
        """Returns the error of reconstructions to which dead units add, float32 [B].

        The largest of the dead activations [B, K] add to the logits, which get no gradient. So with
        the squared error of a linear output the dead units learn the residual, as in the paper.
        Without dead units the error is 0.
        """
        dead = tf.convert_to_tensor(self.idle_steps) >= self._settings.dead_after_steps
        most = min(self._settings.auxiliary_units, self.code_size)

        def error():
            ranked = tf.where(dead, activations, activations.dtype.min)
            added = activations * tf.cast(dead & is_largest(ranked, most, most=most), tf.float32)
            return self.error(tf.stop_gradient(logits) + self._logits_without_bias(added), images)

        return tf.cond(tf.reduce_any(dead), error, lambda: tf.zeros(tf.shape(images)[:1]))

    def _test_codes(self, activations):
        if self._settings.sparsity == "jumprelu":
            return jump_relu(activations, self.thresholds, self._settings.bandwidth)
        if self.threshold is not None:
            return activations * is_kept(activations, tf.convert_to_tensor(self.threshold))
        if self._settings.sparsity == "k_sparse":
            return keep_largest(activations, self._test_units, most=self._test_units)
        return activations

    def _smallest_kept(self, context):
        if self.threshold is None or not context.training:
            return None
        size, most = context.batch_values.shape[0], self._settings.first_active_units
        count = size * self.kept_units(context.progress)
        return smallest_kept(context.batch_values, count, most=size * most)

    def _codes(self, activations, context, smallest):
        if smallest is not None:
            # The same bits as those ranked, which another compilation may round differently.
            ranked = tf.slice(context.batch_values, [context.first_row, 0], activations.shape)
            return activations * is_kept(ranked, smallest)
        if self._settings.sparsity == "k_sparse" and context.training:
            kept = self.kept_units(context.progress)
            return keep_largest(activations, kept, most=self._settings.first_active_units)
        return self._test_codes(activations)

    def _logits_without_bias(self, codes):
        if self._settings.tied_weights:
            kernel = tf.transpose(self.encoder.get_layer("code").kernel)
        else:
            kernel = tf.convert_to_tensor(self.decoder.get_layer("logits").kernel)
        return tf.reshape(tf.matmul(codes, kernel), [-1, *self.image_shape])

    def _penalties(self, activations, codes, context):
        terms = {}
        if self._settings.sparsity == "kl":
            rates = base.with_gradient_of(context.batch_means, codes)
            penalty = tf.reduce_sum(bernoulli_kl_nats(self._settings.target_rate, rates), axis=1)
            terms["kl"] = self._settings.penalty_weight * penalty
        elif self._settings.sparsity == "l1":
            terms["l1"] = self._settings.penalty_weight * tf.reduce_sum(tf.abs(codes), axis=1)
        elif self._settings.sparsity == "jumprelu":
            gates = threshold_gates(activations, self.thresholds, self._settings.bandwidth)
            terms["l0"] = tf.reduce_sum(gates, axis=1)
            terms["l0_penalty"] = self._settings.penalty_weight * terms["l0"]
        return terms

    def kept_units(self, progress: tf.Tensor) -> tf.Tensor:
        """Returns how many units "k_sparse" keeps at this share of the training, int32 []."""
        first, last = self._settings.first_active_units, self._settings.active_units
        share = self._settings.annealing_share
        if share == 0:
            return tf.constant(last)
        done = tf.minimum(progress / share, 1.0)
        return tf.cast(tf.round(first - done * (first - last)), tf.int32)


def _initialise_kernels(layers: Iterable[keras.Layer], std: float) -> None:
    """Draws the kernels of the dense layers among `layers` from a normal distribution."""
    for layer in layers:
        if isinstance(layer, keras.layers.Dense):
            # A new one for each layer: every call of one initialiser draws the same values.
            normal = keras.initializers.RandomNormal(stddev=std)
            layer.kernel.assign(normal(layer.kernel.shape))


def keep_largest(activations: tf.Tensor, count: int | tf.Tensor, *, most: int) -> tf.Tensor:
    """Sets all but exactly the `count` <= `most` largest activations [B, K] of each row to 0.

    Of equal activations the first are kept.
    """
    return activations * tf.cast(is_largest(activations, count, most=most), activations.dtype)


def smallest_kept(activations: tf.Tensor, count: int | tf.Tensor, *, most: int) -> tf.Tensor:
    """Returns the smallest positive one of the `count` <= `most` largest activations [B, K].

    Infinity if none is positive.
    """
    largest, _ = tf.math.top_k(tf.reshape(tf.stop_gradient(activations), [-1]), most)
    kept = (largest >= tf.gather(largest, count - 1)) & (largest > 0)
    return tf.reduce_min(tf.where(kept, largest, np.inf))


def is_kept(activations: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 for activations from the threshold on, else 0.0; for a NaN 1.0."""
    return tf.cast(~(activations < threshold), tf.float32)


def threshold_gates(activations: tf.Tensor, thresholds: tf.Tensor, bandwidth: float) -> tf.Tensor:
    """Returns 1 for activations [B, K] above their unit's threshold [K], else 0.

    The gradient is of the thresholds alone: -1 / bandwidth for each activation that lies less than
    half a bandwidth from its threshold.
    """
    active = tf.cast(activations > thresholds, tf.float32)
    is_near = tf.cast(tf.abs(activations - thresholds) < bandwidth / 2, tf.float32)
    zero = tf.stop_gradient(thresholds) - thresholds
    return active + tf.stop_gradient(is_near) * zero / bandwidth


def jump_relu(activations: tf.Tensor, thresholds: tf.Tensor, bandwidth: float) -> tf.Tensor:
    """Sets activations [B, K] up to their unit's threshold [K] to 0.

    An activation that is not set to 0 has a gradient of 1, a threshold that of `threshold_gates`
    times the threshold.
    """
    gates = threshold_gates(activations, thresholds, bandwidth)
    zero = gates - tf.stop_gradient(gates)
    return activations * tf.stop_gradient(gates) + tf.stop_gradient(thresholds) * zero


def _mean_norm(weights: tf.Tensor, dead: tf.Tensor) -> tf.Tensor:
    """Returns the mean norm of the rows of units that are alive, or of all if all are dead."""
    counted = tf.cast(~dead | tf.reduce_all(dead), tf.float32)
    norms = tf.norm(weights, axis=1)
    return tf.reduce_sum(counted * norms) / tf.reduce_sum(counted)


def bernoulli_kl_nats(target: float, rates: tf.Tensor) -> tf.Tensor:
    """Returns KL(Bernoulli(target) || Bernoulli(rate)) in nats, of each rate."""
    inside = tf.clip_by_value(rates, _MARGIN, 1 - _MARGIN)
    return target * tf.math.log(target / inside) + (1 - target) * tf.math.log(
        (1 - target) / (1 - inside)
    )
