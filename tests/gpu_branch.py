"""TensorFlow's GPU branch of tf.distribute, taken on CPU devices."""

import contextlib
from collections.abc import Iterator
from unittest import mock

from tensorflow.python.distribute import mirrored_run, mirrored_strategy


@contextlib.contextmanager
def gpu_branch() -> Iterator[None]:
    """Has each MirroredStrategy treat its devices as GPUs: no merge_call, collective sums."""
    yes = mock.patch.object(mirrored_strategy, "_is_gpu_device", return_value=True)
    with yes, mock.patch.object(mirrored_run, "_is_gpu_device", return_value=True):
        yield
