"""The trainer and TensorFlow as they compute on GPUs, on CPU devices."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf
from tensorflow.python.distribute import mirrored_run, mirrored_strategy

from trainer.distribution import devices, private_api


@contextlib.contextmanager
def gpu_branch() -> Iterator[None]:
    """Makes tf.distribute and the trainer treat all devices as GPUs.

    A MirroredStrategy then sums by collectives, without merge_call, as over NCCL.
    """
    with (
        mock.patch.object(mirrored_strategy, "_is_gpu_device", return_value=True),
        mock.patch.object(mirrored_run, "_is_gpu_device", return_value=True),
        mock.patch.object(devices, "on_gpus", return_value=True),
    ):
        yield


def gpu_strategy(count: int) -> tf.distribute.Strategy:
    """Returns the strategy of a machine with `count` GPUs, on logical CPU devices."""
    strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(count)])
    if count == 1:
        private_api.use_merge_call(strategy)
    return strategy
