"""How training steps are computed, and what XLA needs for it."""

import itertools

import tensorflow as tf

from trainer.distribution.strategy import Strategy, describe_devices
from trainer.models import Autoencoder
from trainer.models.convolutions import few_channels_share

EXECUTIONS = ("graph", "xla_update", "xla", "xla_products")

CUT_SIZE = 128  # images at a time where convolutions are matrix products
_LARGE_PRODUCTS = 4e9  # multiply-adds a step of dense layers


def candidate_executions(
    strategy: Strategy, model: Autoencoder, batch_size: int
) -> tuple[str, ...]:
    """The executions worth a try on these devices, the usually fastest first.

    Convolutions with few channels go by matrix products on a CPU, others by its library, and so do
    the products of large layers on large batches (measured in docs/performance.md); other nets are
    compiled, where that takes them whole.
    """
    alone = strategy.num_replicas_in_sync == 1
    on_cpu = describe_devices(strategy).startswith("CPU")
    few_channels = few_channels_share([model.encoder, model.decoder])
    library = "xla_update" if alone else "graph"
    if not on_cpu:
        return ("xla", library)
    if few_channels is None:
        small = batch_size * model.count_params() < _LARGE_PRODUCTS
        return ("xla", library) if alone and small else (library, "xla")
    return ("xla_products", library) if few_channels > 0.5 else (library, "xla_products")


def norm_for_xla(gradients: list[tf.Tensor]) -> tf.Tensor:
    """Their norm together, in a form that XLA reads once on a CPU, not thrice.

    It writes a sum of more than 32 terms as a tree, which keeps it from squaring on the way.
    """

    def eighths(gradient: tf.Tensor) -> tf.Tensor:
        size = gradient.shape.num_elements()
        parts = next(parts for parts in range(8, 0, -1) if size % parts == 0)
        return tf.add_n([tf.square(p) for p in tf.split(tf.reshape(gradient, [-1]), parts)])

    return tf.sqrt(tf.add_n([tf.reduce_sum(eighths(gradient)) for gradient in gradients]))


def one_after_the_other(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """The same numbers, each gradient to be had only after the one before it in the model.

    So no layer's weights change before the gradient has passed through them: XLA, which orders by
    need alone, would copy them first.
    """

    def unknown_zero(gradient: tf.Tensor) -> tf.Tensor:
        return tf.minimum(tf.abs(tf.reshape(gradient, [-1])[0]), 0.0)

    following = [
        gradient + unknown_zero(before) for before, gradient in itertools.pairwise(gradients)
    ]
    return [gradients[0], *following]


def cuts(size: int) -> int:
    """The fewest equal parts of a batch that suit the caches; 1 if none is of such a size."""
    if size <= CUT_SIZE:
        return 1
    fitting = range(CUT_SIZE // 2, CUT_SIZE + 1)
    return next((c for c in range(2, size) if size % c == 0 and size // c in fitting), 1)
