"""Computes one replica's share of the gradients and of the loss terms of a step.

A loss term is per example, [B]. A share is the sum over the replica's rows divided by the size of
the global batch, so that the sum of all shares is the mean over the batch.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from trainer.config import Augment
from trainer.distribution import xla_layers
from trainer.distribution.augmentation import augmented
from trainer.distribution.xla import Execution, cuts
from trainer.models.base import StepContext
from trainer.models.largest import is_largest
from trainer.models.learner import Learner
from trainer.positions import Noise

_ROUNDING = 1e-9  # as floats, 0.29 * 100 is slightly below 29
_LOSS = "loss/"  # the names of the terms of the loss begin so
Shared = dict[str, tf.Tensor]  # fields of `StepContext` that are of the global batch


@dataclasses.dataclass(frozen=True)
class ReplicaBatch:
    """Holds the rows of one step's batch that a replica computes."""

    images: tf.Tensor  # [B, H, W, C] or [B, D]
    labels: tf.Tensor | None  # [B]
    step: tf.Tensor  # int64 []
    # The first row in the global batch. It does not depend on the step: XLA would compile a slice
    # from such a row anew for each step.
    first_row: tf.Tensor | int
    weights: tf.Tensor | None = None  # float32 [B], of the rows in the mean; None: all 1

    def rows(self, start: tf.Tensor | int, size: int) -> "ReplicaBatch":
        """Returns `size` consecutive rows."""
        images, labels, weights = self.images, self.labels, self.weights
        return ReplicaBatch(
            tf.slice(images, [start, *[0] * (len(images.shape) - 1)], [size, *images.shape[1:]]),
            None if labels is None else tf.slice(labels, [start], [size]),
            self.step,
            self.first_row + start,
            None if weights is None else tf.slice(weights, [start], [size]),
        )


class Share(NamedTuple):
    """Holds a replica's share of what a step sums over the replicas, or the sums."""

    gradients: list[tf.Tensor]
    terms: dict[str, tf.Tensor]  # of the loss, and those that are logged alone
    state: list[tf.Tensor]  # the means [S] that `state_updates` takes: one, or none


@dataclasses.dataclass(frozen=True)
class Gradients:
    """Computes shares of gradients, of loss terms and of what some terms need of a batch."""

    model: Learner
    batch_size: int  # of all replicas together
    seed: int
    progress: Callable[[tf.Tensor], tf.Tensor]  # from a step to `StepContext.progress`
    augment: Augment
    execution: Execution

    def __call__(self, batch: ReplicaBatch, shared: Shared, scale: tf.Tensor) -> Share:
        """Computes the gradients of the loss times a scale, the loss terms and the state's means.

        `shared` are the sums of `shared` over the replicas.
        """
        size = batch.images.shape[0]
        count = cuts(size) if self.execution.cuts_batch else 1
        if count == 1:
            return self._of_rows(batch, shared, scale)
        rows = size // count

        def add_share(k, total):
            share = self._of_rows(batch.rows(k * rows, rows), shared, scale)
            return k + 1, tf.nest.map_structure(tf.add, total, share)

        first = self._of_rows(batch.rows(0, rows), shared, scale)
        _, total = tf.while_loop(lambda k, _: k < count, add_share, (tf.constant(1), first))
        return total

    def shared(self, images: tf.Tensor, step: tf.Tensor, start: int) -> Shared:
        """Computes the share of the batch's means and values that a loss term needs, if any."""
        seen = self._seen(images, self._noise(step, start, images.shape[0]))
        with xla_layers.rewritten(self.model, self.execution.layer_kinds):
            statistics, values = self.model.statistics(seen), self.model.shared_values(seen)
        shared = {}
        if statistics is not None:
            shared["batch_means"] = tf.reduce_sum(statistics, axis=0) / self.batch_size
        if values is not None:
            shared["batch_values"] = self._in_global_batch(values, start)
        return shared

    def resampling_values(self, images: tf.Tensor, step: tf.Tensor, start: int) -> tf.Tensor:
        """Computes the share of the values that the model's `resampled` needs."""
        noise = self._noise(step, start, images.shape[0])
        with xla_layers.rewritten(self.model, self.execution.layer_kinds):
            values = self.model.resampling_values(self._seen(images, noise), noise)
        return self._in_global_batch(values, start)

    def losses(self, batch: ReplicaBatch, shared: Shared) -> tf.Tensor:
        """Computes the losses of a replica's rows, float32 [batch_size]: 0 at others' rows.

        The sum over the replicas holds the losses of the global batch.
        """
        with xla_layers.rewritten(self.model, self.execution.layer_kinds):
            losses = sum_of_terms(self._terms(batch, shared)[0])
        return self._in_global_batch(losses, batch.first_row)

    def _in_global_batch(self, rows, start):
        after = self.batch_size - start - rows.shape[0]
        return tf.pad(rows, [[start, after], *[[0, 0]] * (len(rows.shape) - 1)])

    def _of_rows(self, batch, shared, scale):
        rewritten = xla_layers.rewritten(self.model, self.execution.layer_kinds)
        with rewritten, tf.GradientTape() as tape:
            each, state = self._terms(batch, shared)
            if batch.weights is not None:
                each = {name: term * batch.weights for name, term in each.items()}
            terms = {name: tf.reduce_sum(term) / self.batch_size for name, term in each.items()}
            scaled_loss = scale * sum_of_terms(terms)
        variables = self.model.trainable_variables
        # A loss need not depend on all weights: a classifier's ignores the decoder.
        gradients = [
            tf.zeros(variable.shape) if gradient is None else gradient
            for variable, gradient in zip(
                variables, tape.gradient(scaled_loss, variables), strict=True
            )
        ]
        means_of_state = [] if state is None else [tf.reduce_sum(state, axis=0) / self.batch_size]
        return Share(gradients, terms, means_of_state)

    def _terms(self, batch, shared):
        noise = self._noise(batch.step, batch.first_row, batch.images.shape[0])
        context = StepContext(
            noise,
            progress=self.progress(batch.step),
            training=True,
            labels=batch.labels,
            first_row=batch.first_row,
            **shared,
        )
        terms, state = self.model.training_terms(self._seen(batch.images, noise), context)
        return metrics_of(self.model, terms, batch.images.shape[0]), state

    def _noise(self, step, first_row, count):
        """Returns the noise of consecutive rows of a step's global batch."""
        return Noise(self.seed, step * self.batch_size + tf.cast(first_row, tf.int64), count)

    def _seen(self, images, noise):
        return augmented(to_unit(images), self.augment, noise)


def metrics_of(model: Learner, terms: dict[str, tf.Tensor], count: int) -> dict[str, tf.Tensor]:
    """Returns the terms of a loss of `count` examples by the names of their metrics, `loss/<term>`.

    The model's `logged_terms` keep their names.

    Raises:
      TypeError: a term has another shape than one value per example.
    """
    for name, term in terms.items():
        if not term.shape.is_compatible_with([count]):
            raise TypeError(
                f"the loss term {name!r} has the shape {term.shape}; it needs one value per "
                f"example, ({count},)"
            )
    return {
        name if name in model.logged_terms else f"{_LOSS}{name}": term
        for name, term in terms.items()
    }


def sum_of_terms(metrics: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns the loss of `metrics_of` its terms."""
    return tf.add_n([term for name, term in metrics.items() if name.startswith(_LOSS)])


def trimming_weights(losses: tf.Tensor, trim_share: float) -> tf.Tensor:
    """Returns weights of mean 1, float32 [B], that are 0 for a share of the largest losses [B].

    Of equal losses the first are kept. A NaN stays in the mean, and so is noticed.
    """
    size = losses.shape[0]
    count = size - math.floor(trim_share * size + _ROUNDING)
    kept = is_largest(-losses[tf.newaxis], count, most=count)[0]
    return tf.cast(kept, tf.float32) * (size / count)


def to_unit(images: tf.Tensor) -> tf.Tensor:
    """Scales images of bytes to float32 in [0, 1]; leaves vectors as they are."""
    scale = 255.0 if images.dtype == tf.uint8 else 1.0
    return tf.cast(images, tf.float32) / scale
