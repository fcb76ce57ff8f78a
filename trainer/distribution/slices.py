"""Divides a global batch into the consecutive rows of each worker and each replica."""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Slices:
    """Finds the rows of one worker of a strategy, and of its replicas."""

    strategy: tf.distribute.Strategy
    worker: int

    @property
    def local_replicas(self) -> int:
        """Returns the number of replicas of this worker."""
        return len(self.strategy.extended.worker_devices)

    def of_worker(self, batch_size: int) -> slice:
        """Returns the rows of a global batch that this worker computes."""
        rows = batch_size // self.strategy.num_replicas_in_sync * self.local_replicas
        return slice(self.worker * rows, (self.worker + 1) * rows)

    def of_replica(self, batch: tf.Tensor) -> tuple[tf.Tensor, int]:
        """Returns this replica's rows of a worker's batch, and the global index of the first row.

        Must be called in a replica's context, while a tf.function is traced.
        """
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        replica = int(tf.get_static_value(replica))
        size = batch.shape[0] // self.local_replicas
        start = (replica - self.worker * self.local_replicas) * size
        return batch[start : start + size], replica * size
