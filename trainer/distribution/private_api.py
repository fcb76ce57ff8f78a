"""The private names of TensorFlow and Keras that this package uses, each with its reason."""

import contextlib
from collections.abc import Iterator

import keras
from tensorflow.python.distribute import collective_all_reduce_strategy


def leave_gradients_unsummed(optimizer: keras.optimizers.Optimizer) -> None:
    """Has a Keras optimizer take gradients that are summed over the replicas already.

    Keras would sum after clipping, and test each replica's own share for overflow.
    """
    assert hasattr(optimizer, "_all_reduce_sum_gradients"), "Keras has renamed its all-reduce"
    optimizer._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars


@contextlib.contextmanager
def on_logical_cpus(names: list[str]) -> Iterator[None]:
    """Has a MultiWorkerMirroredStrategy use all of these devices, not one CPU per worker."""
    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    original = extended._initialize_local_devices

    def local_devices(self, cluster_resolver, worker_device):
        del self, cluster_resolver
        return tuple(f"{worker_device}/device:{name}" for name in names), "CPU"

    extended._initialize_local_devices = local_devices
    try:
        yield
    finally:
        extended._initialize_local_devices = original
