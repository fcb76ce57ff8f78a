"""Sums over the replicas, and over the workers, of a strategy."""

import numpy as np
import tensorflow as tf


class SumOverWorkers:
    """Sums what each worker of a strategy brings, int64 [n], as every one of them gets it."""

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self._local_replicas = len(strategy.extended.worker_devices)
        self._compiled = tf.function(lambda own: strategy.run(self._of_first_replica, args=(own,)))

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        if self._strategy.num_replicas_in_sync == self._local_replicas:
            return numbers
        total = self._compiled(tf.constant(numbers, tf.int64))
        return self._strategy.experimental_local_results(total)[0].numpy()

    def _of_first_replica(self, own):
        context = tf.distribute.get_replica_context()
        is_first = context.replica_id_in_sync_group % self._local_replicas == 0
        share = own * tf.cast(is_first, tf.int64)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, share)


def sum_over_replicas(tensors):
    """Sums a structure of float32 tensors over the replicas, as one tensor."""
    if tf.distribute.get_replica_context().num_replicas_in_sync == 1:
        return tensors
    return unpack(all_reduce(pack(tensors)), tensors)


def all_reduce(packed: tf.Tensor) -> tf.Tensor:
    """Sums a tensor over the replicas."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, packed)


def pack(tensors) -> tf.Tensor:
    """Concatenates a structure of float32 tensors to one tensor [n]."""
    return tf.concat([tf.reshape(part, [-1]) for part in tf.nest.flatten(tensors)], axis=0)


def unpack(packed: tf.Tensor, like):
    """Restores the structure that `pack` took, whose shapes `like` has, from its tensor."""
    parts = tf.nest.flatten(like)
    pieces = tf.split(packed, [part.shape.num_elements() for part in parts])
    shaped = [tf.reshape(piece, part.shape) for piece, part in zip(pieces, parts, strict=True)]
    return tf.nest.pack_sequence_as(like, shaped)
