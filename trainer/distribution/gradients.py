"""One replica's share of the gradients and of the loss terms, as sums over its slice of the batch.

A loss term is per example, [B]; here it is summed over the slice and divided by the global batch,
so that the sum over the replicas is the mean over the batch.
"""

import dataclasses
from typing import Any, Protocol

import tensorflow as tf

from trainer.distribution.xla import cuts
from trainer.models.base import StepContext
from trainer.models.convolutions import as_matrix_products, strided_max_pooling
from trainer.positions import Noise


class Learner(Protocol):
    """What steps ask of a Keras model besides its variables, as `Autoencoder` describes it."""

    variables: Any
    trainable_variables: Any

    def loss_terms(self, images: tf.Tensor, context: StepContext, /) -> dict[str, tf.Tensor]: ...

    def statistics(self, images: tf.Tensor, /) -> tf.Tensor | None: ...


@dataclasses.dataclass(frozen=True)
class Slice:
    """A replica's rows of the batch of one step."""

    images: tf.Tensor  # [B, H, W, C] or [B, D]
    labels: tf.Tensor | None  # [B]
    step: tf.Tensor  # int64 []
    first_position: tf.Tensor  # int64 [], of the first row among all examples of the run

    def rows(self, start: tf.Tensor | int, size: int) -> "Slice":
        """Returns `size` consecutive rows."""
        images, labels = self.images, self.labels
        return Slice(
            tf.slice(images, [start, *[0] * (len(images.shape) - 1)], [size, *images.shape[1:]]),
            None if labels is None else tf.slice(labels, [start], [size]),
            self.step,
            self.first_position + tf.cast(start, tf.int64),
        )


@dataclasses.dataclass(frozen=True)
class Gradients:
    """How a replica computes its share; `execution` is one of `xla.EXECUTIONS`."""

    model: Learner
    batch_size: int  # of all replicas
    seed: int
    last_step: int
    execution: str
    cut_for_caches: bool  # whether matrix products take a part of the batch at a time

    def __call__(
        self, rows: Slice, means: tf.Tensor | None, scale: tf.Tensor
    ) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Computes the gradients of the scaled loss and the unscaled loss terms."""
        size = rows.images.shape[0]
        by_products = self.execution == "xla_products"
        parts = cuts(size) if by_products and self.cut_for_caches else 1
        if parts == 1:
            return self._of_part(rows, means, scale)
        part = size // parts
        total = self._of_part(rows.rows(0, part), means, scale)
        k = tf.constant(1)
        while k < parts:
            share = self._of_part(rows.rows(k * part, part), means, scale)
            total = tf.nest.map_structure(tf.add, total, share)
            k += 1
        return total

    def statistics(self, images: tf.Tensor) -> tf.Tensor | None:
        """Computes the share [S] of the batch means that a loss term needs, or None."""
        with self._layers():
            statistics = self.model.statistics(to_unit(images))
        if statistics is None:
            return None
        return tf.reduce_sum(statistics, axis=0) / self.batch_size

    def _of_part(self, rows, means, scale):
        context = StepContext(
            Noise(self.seed, rows.first_position, rows.images.shape[0]),
            progress=tf.cast(rows.step, tf.float32) / self.last_step,
            training=True,
            batch_means=means,
            labels=rows.labels,
        )
        with self._layers(), tf.GradientTape() as tape:
            terms = {
                f"loss/{name}": tf.reduce_sum(term) / self.batch_size
                for name, term in self.model.loss_terms(to_unit(rows.images), context).items()
            }
            scaled_loss = scale * tf.add_n(list(terms.values()))
        variables = self.model.trainable_variables
        # A loss may not depend on some weights, as a classifier's on a decoder.
        gradients = [
            tf.zeros(variable.shape) if gradient is None else gradient
            for variable, gradient in zip(
                variables, tape.gradient(scaled_loss, variables), strict=True
            )
        ]
        return gradients, terms

    def _layers(self):
        """Returns a context in which convolutional layers take the form of the execution."""
        if self.execution == "xla_products":
            return as_matrix_products()
        return strided_max_pooling(self.execution == "xla")


def to_unit(images: tf.Tensor) -> tf.Tensor:
    """Scales images of bytes to float32 in [0, 1]; leaves vectors as they are."""
    scale = 255.0 if images.dtype == tf.uint8 else 1.0
    return tf.cast(images, tf.float32) / scale
