"""Draws training batches, the examples at positions of the run, by a tf.data pipeline."""

import sys
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from trainer import positions
from trainer.data.dataset import Records


def training_batches(
    images: np.ndarray | Records,
    step_ranges: Iterable[tuple[int, int]],
    max_steps: int,
    batch_size: int,
    seed: int,
    *,
    as_indices: bool,
    local_rows: slice = slice(None),
) -> tf.data.Dataset:
    """Returns one element for each half-open range of steps [first, end).

    An element is (first, K, batches [max_steps, B, ...]) with K = end - first. Step k has the
    examples at positions k * batch_size to (k + 1) * batch_size - 1; this worker takes only its
    `local_rows`, B examples. Batches hold images [H, W, C], or int32 indices of images if
    `as_indices`; batches beyond K are zeros. A `max_steps` of 1 counts as 2: XLA compiles a loop
    over one batch to other bits.
    """
    rows = len(range(batch_size)[local_rows])
    batches_shape = (max(2, max_steps), rows, *(() if as_indices else images.shape[1:]))
    dtype = np.int32 if as_indices else images.dtype
    ranges = iter(step_ranges)

    def draw(_) -> tuple[np.int64, np.int32, np.ndarray]:
        first, end = next(ranges, (0, 0))
        steps = end - first
        indices = positions.examples(seed, first * batch_size, steps * batch_size, len(images))
        indices = indices.reshape(steps, batch_size)[:, local_rows]
        batches = np.zeros(batches_shape, dtype)
        if steps:  # Records cannot read zero rows
            batches[:steps] = indices if as_indices else images[indices]
        return np.int64(first), np.int32(steps), batches

    def element(number):
        first, steps, batches = tf.numpy_function(draw, [number], (tf.int64, tf.int32, dtype))
        batches.set_shape(batches_shape)
        return first, steps, batches

    # Dataset.from_generator would slow XLA's loops on a CPU to two thirds of their speed.
    elements = tf.data.Dataset.range(sys.maxsize).map(element)
    return without_autotune(elements.take_while(lambda _, steps, __: steps > 0).prefetch(2))


def without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the pipeline without tf.data's tuner.

    The tuner's thread sleeps twice as long each time, and may delay an iterator's end by a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
