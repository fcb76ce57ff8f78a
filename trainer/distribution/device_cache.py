"""Keeps the training images on every replica's device, and gathers batches there."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.memory import aligned_empty, is_aligned
from trainer.distribution import devices

_WORD_BYTES = 4


class DeviceCache:
    """Holds a copy of the training images on the device of each replica, once filled.

    On GPUs, images of bytes are stored as rows [N, D], padded to whole words.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.copies: Any | None = None  # all images [N, ...], for each replica
        self._strategy = strategy
        self._image_shape: tuple[int, ...] = ()

    def fill(self, images: np.ndarray) -> bool:
        """Copies images [N, ...] to the device of each local replica; returns whether they fit.

        CPUs share the memory of images that begin at a multiple of 64 bytes.
        """
        self._image_shape = images.shape[1:]
        if devices.on_gpus(self._strategy) and images.dtype == np.uint8:
            images = _in_whole_words(images.reshape(len(images), -1))
        if is_aligned(images) and images.flags.writeable:
            tensor = tf.experimental.dlpack.from_dlpack(images.__dlpack__())
        else:
            with tf.device("CPU:0"):
                tensor = tf.constant(images)
        local_devices = self._strategy.extended.worker_devices

        def copy(context):
            with tf.device(local_devices[context.replica_id_in_sync_group % len(local_devices)]):
                return tf.identity(tensor)

        try:
            self.copies = self._strategy.experimental_distribute_values_from_function(copy)
        except tf.errors.ResourceExhaustedError:
            self.copies = None
        return self.copies is not None

    def release(self) -> None:
        """Frees the memory of the devices."""
        self.copies = None

    def devices(self) -> list[str]:
        """Returns the device of each local replica's copy."""
        return [copy.device for copy in self._strategy.experimental_local_results(self.copies)]

    def gather(self, copy: tf.Tensor, indices: tf.Tensor, *, by_words: bool) -> tf.Tensor:
        """Returns the images [B, ...] at some indices of a replica's copy.

        TensorFlow's gather has a GPU kernel for words but none for bytes, which XLA gathers well.
        """
        if copy.dtype != tf.uint8 or len(copy.shape) != 2:
            return tf.gather(copy, indices)
        if by_words:
            words = tf.bitcast(tf.reshape(copy, [copy.shape[0], -1, _WORD_BYTES]), tf.float32)
            rows = tf.reshape(tf.bitcast(tf.gather(words, indices), tf.uint8), [-1, copy.shape[1]])
        else:
            rows = tf.gather(copy, indices)
        return tf.reshape(rows[:, : math.prod(self._image_shape)], [-1, *self._image_shape])


def _in_whole_words(rows: np.ndarray) -> np.ndarray:
    """Pads rows of bytes [N, D] with zeros to a multiple of 4; copies only if D is none."""
    missing = -rows.shape[1] % _WORD_BYTES
    if missing == 0:
        return rows
    filled = aligned_empty((len(rows), rows.shape[1] + missing))
    filled[:, : rows.shape[1]] = rows
    filled[:, rows.shape[1] :] = 0
    return filled
