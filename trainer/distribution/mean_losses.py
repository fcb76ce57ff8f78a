"""Computes the mean losses of a model over any number of images, on one replica or many."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import tensorflow as tf

from trainer.distribution.gradients import metrics_of, sum_of_terms, to_unit
from trainer.distribution.graphs import graph_function
from trainer.distribution.inference import EVALUATION_BATCH_SIZE
from trainer.distribution.slices import Slices
from trainer.models.base import StepContext
from trainer.models.learner import Learner
from trainer.positions import Noise


class Rows(Protocol):
    """Describes an array [N, ...], or an object that reads rows from files when sliced."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice, /) -> np.ndarray: ...


class MeanLosses:
    """Computes mean losses, with the evaluation noise of a seed."""

    def __init__(self, slices: Slices, model: Learner, seed: int):
        self._slices = slices
        self._strategy = slices.strategy
        self._model = model
        self._seed = seed
        self._losses_compiled = graph_function(self._losses_of_batch)
        self._statistics_compiled = graph_function(self._statistics_of_batch)

    def __call__(self, images: Rows) -> dict[str, float]:
        """Computes the means of `loss` and each `loss/<term>` over images [N, H, W, C]."""
        means = None
        for _, batch, weights in self._batches(images):
            sums = self._statistics_compiled(batch, weights)
            if sums is None:
                break
            means = sums if means is None else means + sums
        if means is not None:
            means /= len(images)
        totals: dict[str, float] = {}
        for first, batch, weights in self._batches(images):
            batch_sums = self._losses_compiled(first, batch, weights, means)
            for name, value in batch_sums.items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return {name: value / len(images) for name, value in totals.items()}

    def _batches(self, images: Rows) -> Iterator[tuple[tf.Tensor, ...]]:
        """Yields the first index, the rows and the weights of each batch: 1, or 0 beyond N."""
        replicas = self._strategy.num_replicas_in_sync
        size = -(-EVALUATION_BATCH_SIZE // replicas) * replicas
        own = self._slices.of_worker(size)
        for first in range(0, len(images), size):
            batch = images[first : first + size]
            weights = np.zeros(size, np.float32)
            weights[: len(batch)] = 1
            padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
            padded[: len(batch)] = batch
            yield tf.constant(first, tf.int64), tf.constant(padded[own]), tf.constant(weights[own])

    def _statistics_of_batch(self, images, weights):
        def replica_sums():
            statistics = self._model.statistics(to_unit(self._slices.of_replica(images)[0]))
            if statistics is None:
                return None
            own_weights, _ = self._slices.of_replica(weights)
            return tf.reduce_sum(statistics * own_weights[:, tf.newaxis], axis=0)

        per_replica = self._strategy.run(replica_sums)
        if per_replica is None:
            return None
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)

    def _losses_of_batch(self, first_position, images, weights, means):
        def replica_sums():
            own, start = self._slices.of_replica(images)
            context = StepContext(
                Noise(self._seed, first_position + start, own.shape[0], stream="evaluation"),
                progress=tf.constant(1.0),
                training=False,
                batch_means=means,
            )
            losses = self._model.loss_terms(to_unit(own), context)
            terms = metrics_of(self._model, losses, own.shape[0])
            own_weights, _ = self._slices.of_replica(weights)
            sums = {name: tf.reduce_sum(term * own_weights) for name, term in terms.items()}
            return {"loss": sum_of_terms(sums), **sums}

        per_replica = self._strategy.run(replica_sums)
        return {
            name: self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
            for name, value in per_replica.items()
        }
