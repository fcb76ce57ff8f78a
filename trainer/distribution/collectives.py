"""Sums over the replicas, and over the workers, of a strategy by all-reduce."""

import numpy as np
import tensorflow as tf

from trainer.distribution.graphs import graph_function


class WorkerSum:
    """Sums int64 arrays [n], one from each worker; every worker gets the total."""

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self._local_replicas = len(strategy.extended.worker_devices)
        self._compiled = graph_function(
            lambda own: strategy.run(self._of_first_replica, args=(own,))
        )

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the total of the arrays of all workers, int64 [n]."""
        if self._strategy.num_replicas_in_sync == self._local_replicas:
            return numbers
        total = self._compiled(tf.constant(numbers, tf.int64))
        return self._strategy.experimental_local_results(total)[0].numpy()

    def _of_first_replica(self, numbers):
        """Sums the numbers of each worker's first replica; the other replicas add zeros."""
        context = tf.distribute.get_replica_context()
        is_first = context.replica_id_in_sync_group % self._local_replicas == 0
        return all_reduce(numbers * tf.cast(is_first, tf.int64))


def sum_over_replicas(tensors):
    """Sums a structure of float32 tensors over the replicas, by a single all-reduce."""
    if tf.distribute.get_replica_context().num_replicas_in_sync == 1:
        return tensors
    return unpack(all_reduce(pack(tensors)), tensors)


def all_reduce(packed: tf.Tensor) -> tf.Tensor:
    """Sums a tensor over the replicas."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, packed)


def pack(tensors) -> tf.Tensor:
    """Concatenates a structure of float32 tensors to one tensor [n]."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tf.nest.flatten(tensors)], axis=0)


def unpack(packed: tf.Tensor, like):
    """Splits a tensor [n] of `pack` into the structure and shapes of `like`."""
    tensors = tf.nest.flatten(like)
    pieces = tf.split(packed, [tensor.shape.num_elements() for tensor in tensors])
    shaped = [tf.reshape(piece, t.shape) for piece, t in zip(pieces, tensors, strict=True)]
    return tf.nest.pack_sequence_as(like, shaped)
