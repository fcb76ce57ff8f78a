"""Chooses what XLA compiles of a training step, and sets what the compilation needs."""

import dataclasses
import itertools
import os
from collections.abc import Callable

import tensorflow as tf

from trainer.config import EXECUTIONS
from trainer.distribution import devices, xla_layers
from trainer.distribution.graphs import graph_function
from trainer.errors import require_choice
from trainer.models.base import Autoencoder

CUT_SIZE = 128  # images at a time where convolutions are matrix products on a CPU
_SMALL_BATCH = 128  # images whose arithmetic does not outweigh a copy of the weights
_LARGE_PRODUCTS = 4e9  # multiply-adds a step of dense layers, on a CPU
_LAUNCH_BOUND = 2e9  # multiply-adds a step of convolutions, which a GPU does while it launches them
_GPU_FLAGS = {
    # Op determinism turns autotuning off, which leaves Triton's products at their default tiles.
    "xla_gpu_enable_triton_gemm": "false",
    # Adds biases and applies relu within the product, where cuBLAS takes kernels of their own.
    "xla_gpu_enable_cublaslt": "true",
    # The whole loop as one CUDA graph: one launch a call, and the host waits for no step.
    "xla_gpu_enable_command_buffer": "+WHILE,+CONDITIONAL",
    "xla_gpu_graph_min_graph_size": "2",
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """Describes how training steps are executed; every mode gives the same result up to rounding.

    There are three ways: TensorFlow's own kernels; on one replica, a loop over the steps that XLA
    has compiled; on several replicas, stages of a step that XLA has compiled, with sums over the
    replicas in between.
    """

    mode: str  # of `EXECUTIONS`
    on_gpus: bool
    loop_by_xla: bool  # on one replica
    parts_by_xla: bool  # on several replicas
    update_by_xla: bool  # on one replica: alone or in the loop
    layer_kinds: tuple[type, ...]  # Keras's layers that are rewritten for XLA
    cuts_batch: bool  # into pieces that fit a CPU's caches
    gathers_words: bool  # from the device cache, instead of bytes
    orders_gradients: bool  # by `one_after_the_other`

    def part(self, function: Callable) -> Callable:
        """Returns a function of one replica, compiled if `parts_by_xla`."""
        return graph_function(function, jit_compile=True) if self.parts_by_xla else function

    def update(self, function: Callable) -> Callable:
        """Returns the function that updates all replicas, compiled if only the update is."""
        alone = self.update_by_xla and not self.loop_by_xla
        return graph_function(function, jit_compile=True) if alone else function


def make_execution(mode: str, strategy: tf.distribute.Strategy, batch_size: int) -> Execution:
    """Returns how steps of a global batch are executed on a strategy's replicas.

    Modes: "graph", TensorFlow's own kernels; "xla_update", the same, but the optimizer's update is
    compiled on one replica; "xla", compiled; "xla_products", compiled, each convolution as matrix
    products, for which a CPU cuts a large batch to fit its caches.

    Raises:
      UserError: the mode is not known.
    """
    require_choice("execution", mode, EXECUTIONS)
    compiled = mode in ("xla", "xla_products")
    one_replica = strategy.num_replicas_in_sync == 1
    on_gpus = devices.on_gpus(strategy)
    layer_kinds = {"xla": xla_layers.MAX_POOLING, "xla_products": xla_layers.ALL}
    return Execution(
        mode=mode,
        on_gpus=on_gpus,
        loop_by_xla=compiled and one_replica,
        parts_by_xla=compiled and not one_replica,
        update_by_xla=mode != "graph" and one_replica,
        layer_kinds=layer_kinds.get(mode, ()),
        cuts_batch=mode == "xla_products" and not on_gpus,
        gathers_words=on_gpus and not compiled,
        orders_gradients=(
            mode == "xla" and one_replica and not on_gpus and batch_size <= _SMALL_BATCH
        ),
    )


def set_gpu_flags() -> None:
    """Adds XLA's flags for GPUs to XLA_FLAGS, except flags that are set already.

    XLA reads the variable once, when it first compiles.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    chosen = {f"--{name}": value for name, value in _GPU_FLAGS.items()}
    missing = [f"{name}={value}" for name, value in chosen.items() if f"{name}=" not in flags]
    os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *missing])


def candidate_executions(
    strategy: tf.distribute.Strategy, model: Autoencoder, batch_size: int
) -> tuple[str, ...]:
    """Returns the executions to try on these devices, the usually fastest first.

    On a CPU, convolutions with few channels become matrix products; other convolutions, and the
    products of large layers on large batches, are left to TensorFlow's library (measured in
    docs/performance.md); other nets are compiled. On GPUs all nets are compiled; convolutions are
    matrix products where they have few channels or the batch is small: each call of cuDNN is a
    launch of its own, where the rest of the step is part of one CUDA graph.
    """
    one_replica = strategy.num_replicas_in_sync == 1
    few_channels, many_channels = xla_layers.count_multiplications(model)
    library = "xla_update" if one_replica else "graph"
    convolves = few_channels + many_channels > 0
    by_products = few_channels > many_channels
    if devices.on_gpus(strategy):
        steps_products = 3 * batch_size * many_channels / strategy.num_replicas_in_sync
        if not convolves:
            return ("xla", library)
        by_products |= steps_products < _LAUNCH_BOUND
        compiled = ("xla_products", "xla") if by_products else ("xla", "xla_products")
        return (*compiled, library)
    if not convolves:
        small = batch_size * model.count_params() < _LARGE_PRODUCTS
        return ("xla", library) if one_replica and small else (library, "xla")
    return ("xla_products", library) if by_products else (library, "xla_products")


def sum_of_squares_for_cpu(gradient: tf.Tensor) -> tf.Tensor:
    """Sums the squares of a gradient so that XLA on a CPU reads it from memory once, not thrice.

    XLA splits a sum of more than 32 terms into a tree, in which squaring and summing are separate.
    """
    size = gradient.shape.num_elements()
    count = next(count for count in range(8, 0, -1) if size % count == 0)
    folded = tf.add_n([tf.square(piece) for piece in tf.split(tf.reshape(gradient, [-1]), count)])
    return tf.reduce_sum(folded)


def one_after_the_other(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Makes each gradient depend on the gradient before it in the model, with equal values.

    So a layer's weights change only when the backward pass no longer needs them. XLA, which orders
    by data dependence only, would otherwise copy the weights first.
    """

    def unknown_zero(gradient: tf.Tensor) -> tf.Tensor:
        return tf.minimum(tf.abs(tf.reshape(gradient, [-1])[0]), 0.0)

    following = [
        gradient + unknown_zero(before) for before, gradient in itertools.pairwise(gradients)
    ]
    return [gradients[0], *following]


def cuts(size: int) -> int:
    """Returns the least number of equal pieces of a batch that fit a CPU's caches, or 1."""
    if size <= CUT_SIZE:
        return 1
    fitting = range(CUT_SIZE // 2, CUT_SIZE + 1)
    return next((c for c in range(2, size) if size % c == 0 and size // c in fitting), 1)
