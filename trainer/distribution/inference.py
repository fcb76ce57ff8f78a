"""Applies a model's functions to many rows, on one device."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.distribution.forks import require_no_fork
from trainer.distribution.graphs import graph_function
from trainer.models.base import Autoencoder
from trainer.positions import Noise

EVALUATION_BATCH_SIZE = 512
_KERNEL_ROWS = 64  # a multiple of the rows that any CPU's matrix product takes at a time


def model_graph(model: Autoencoder) -> tf.Graph:
    """Returns the graph that computes a model's reconstructions of images [B, H, W, C]."""
    images = tf.TensorSpec((None, *model.image_shape), tf.float32)
    return graph_function(model).get_concrete_function(images).graph


def map_batches(
    function: Callable[..., tf.Tensor], rows: np.ndarray, *, noise_seed: int | None = None
) -> np.ndarray:
    """Applies a model's function of rows [B, ...] to all rows [N, ...], batch by batch.

    With a seed, the function takes a second argument: the rows' `Noise` in an evaluation.
    """
    require_no_fork()

    def call(batch, first):
        if noise_seed is None:
            return function(batch)
        return function(batch, Noise(noise_seed, first, tf.shape(batch)[0], stream="evaluation"))

    some_rows = tf.TensorSpec((None, *rows.shape[1:]), rows.dtype)
    number = tf.TensorSpec((), tf.int64)
    compiled = graph_function(call).get_concrete_function(some_rows, number)
    return np.concatenate([
        compiled(
            tf.constant(rows[first : first + EVALUATION_BATCH_SIZE]), tf.constant(first, tf.int64)
        ).numpy()
        for first in range(0, len(rows), EVALUATION_BATCH_SIZE)
    ])  # fmt: skip


def in_batches(
    function: Callable[[tf.Tensor], tf.Tensor], row_shape: tuple[int, ...], size: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a model's function of rows for blocks of up to `size` rows.

    Smaller blocks are padded, so that a row gives the same bits wherever it stands in any block:
    on a CPU, a few last rows of a matrix product go through other kernels.
    """
    require_no_fork()
    filled_size = -(-size // _KERNEL_ROWS) * _KERNEL_ROWS
    some_rows = tf.TensorSpec((filled_size, *row_shape), tf.float32)
    compiled = graph_function(function).get_concrete_function(some_rows)

    def call(rows: np.ndarray) -> np.ndarray:
        filled = np.zeros((filled_size, *row_shape), np.float32)
        filled[: len(rows)] = rows
        return compiled(tf.constant(filled)).numpy()[: len(rows)]

    return call
