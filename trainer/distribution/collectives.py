"""Sums over the replicas, and over the workers, of a strategy."""

import numpy as np
import tensorflow as tf

from trainer.distribution.strategy import Strategy


class SumOverWorkers:
    """Sums what each worker of a strategy brings, int64 [n], as every one of them gets it."""

    def __init__(self, strategy: Strategy):
        self._strategy = strategy
        self._own_replicas = len(strategy.extended.worker_devices)
        self._compiled = tf.function(lambda own: strategy.run(self._of_first_replica, args=(own,)))

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        if self._strategy.num_replicas_in_sync == self._own_replicas:
            return numbers
        total = self._compiled(tf.constant(numbers, tf.int64))
        return self._strategy.experimental_local_results(total)[0].numpy()

    def _of_first_replica(self, own):
        context = tf.distribute.get_replica_context()
        is_first = context.replica_id_in_sync_group % self._own_replicas == 0
        share = own * tf.cast(is_first, tf.int64)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, share)


def sum_over_replicas(tensors):
    """Sums a structure of float32 tensors over the replicas, as one tensor."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tensors
    parts = tf.nest.flatten(tensors)
    packed = tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, packed)
    split = tf.split(total, [part.shape.num_elements() for part in parts])
    sums = [tf.reshape(piece, part.shape) for piece, part in zip(split, parts, strict=True)]
    return tf.nest.pack_sequence_as(tensors, sums)
