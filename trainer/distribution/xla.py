"""How training steps are computed, and what XLA needs for it."""

import itertools
import os

import tensorflow as tf

from trainer.distribution import devices
from trainer.models.base import Autoencoder
from trainer.models.convolutions import count_multiplications

CUT_SIZE = 128  # images at a time where convolutions are matrix products on a CPU
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


def set_gpu_flags() -> None:
    """Sets XLA's flags for GPUs in XLA_FLAGS, but those that it names already.

    XLA reads them once, when it first compiles.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    chosen = {f"--{name}": value for name, value in _GPU_FLAGS.items()}
    missing = [f"{name}={value}" for name, value in chosen.items() if f"{name}=" not in flags]
    os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *missing])


def candidate_executions(
    strategy: tf.distribute.Strategy, model: Autoencoder, batch_size: int
) -> tuple[str, ...]:
    """Returns the executions worth a try on these devices, the usually fastest first.

    On a CPU, convolutions with few channels go by matrix products, others by its library, and so
    do the products of large layers on large batches (measured in docs/performance.md); other nets
    are compiled, where XLA takes them whole. On GPUs all nets are compiled, and convolutions are
    matrix products where they have few channels or the batch is small: each call of cuDNN is a
    launch of its own, where the rest of the step is part of one CUDA graph.
    """
    one_replica = strategy.num_replicas_in_sync == 1
    few_channels, many_channels = count_multiplications([model.encoder, model.decoder])
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
    """Sums the squares of a gradient in a form that XLA on a CPU reads once, not thrice.

    XLA writes a sum of more than 32 terms as a tree, which keeps it from squaring on the way.
    """
    size = gradient.shape.num_elements()
    parts = next(parts for parts in range(8, 0, -1) if size % parts == 0)
    eighths = tf.add_n([tf.square(p) for p in tf.split(tf.reshape(gradient, [-1]), parts)])
    return tf.reduce_sum(eighths)


def one_after_the_other(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the gradients, each available only after the one before it in the model.

    No layer's weights change before the gradient has passed through them: XLA, which orders by
    data dependence only, would copy the weights first.
    """

    def unknown_zero(gradient: tf.Tensor) -> tf.Tensor:
        return tf.minimum(tf.abs(tf.reshape(gradient, [-1])[0]), 0.0)

    following = [
        gradient + unknown_zero(before) for before, gradient in itertools.pairwise(gradients)
    ]
    return [gradients[0], *following]


def cuts(size: int) -> int:
    """Returns the fewest equal parts of a batch that fit a CPU's caches; 1 if there are none."""
    if size <= CUT_SIZE:
        return 1
    fitting = range(CUT_SIZE // 2, CUT_SIZE + 1)
    return next((c for c in range(2, size) if size % c == 0 and size // c in fitting), 1)
