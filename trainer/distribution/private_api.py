"""Wraps the private names of TensorFlow and Keras that this package uses, each with its reason.

tests/distribution/test_private_api.py says which private names a new release has taken away.
"""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf
from keras.src.optimizers import base_optimizer
from tensorflow.python.distribute import collective_all_reduce_strategy
from tensorflow.python.eager import context


def runtime_has_begun() -> bool:
    """Returns whether this process, or the one that it was forked from, has used TensorFlow."""
    return context.context()._context_handle is not None


def leave_gradients_unsummed(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes a Keras optimizer accept gradients that are summed over the replicas already.

    Keras would sum after clipping, and test each replica's own share for overflow.
    """
    assert hasattr(optimizer, "_all_reduce_sum_gradients"), "Keras has renamed its all-reduce"
    optimizer._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars


def update_replica(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[keras.Variable],
) -> None:
    """Updates the variables of one replica as `optimizer.apply` does, except `iterations`.

    `apply` calls tf.distribute's merge_call, which XLA cannot compile within a replica. The
    averaged weights and constraints that `apply` supports are not used here.
    """
    assert not optimizer.use_ema
    assert all(variable.constraint is None for variable in variables)
    gradients = optimizer._clip_gradients(list(gradients))
    base_optimizer.BaseOptimizer._apply_weight_decay(optimizer, variables)
    for gradient, variable in zip(gradients, variables, strict=True):
        optimizer.update_step(gradient, variable, optimizer.learning_rate)


def use_merge_call(strategy: tf.distribute.Strategy) -> None:
    """Makes a strategy of one GPU use merge_call, as a strategy of one CPU does.

    Without it, Keras's LossScaleOptimizer puts the update into a tf.cond, in which the
    aggregation of `iterations` asks for merge_call all the same and fails.
    """
    assert hasattr(strategy.extended, "_use_merge_call"), "TensorFlow has renamed _use_merge_call"
    strategy.extended._use_merge_call = lambda: True


@contextlib.contextmanager
def on_logical_cpus(names: list[str]) -> Iterator[None]:
    """Makes a MultiWorkerMirroredStrategy use all of these devices, not one CPU per worker."""
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
