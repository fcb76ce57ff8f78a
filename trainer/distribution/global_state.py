"""Keeps what is global in a Python process as it was before a training."""

import contextlib
import random
from collections.abc import Iterator

import keras
import numpy as np


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Restores the random states of Python and NumPy, and Keras's default type, at the end.

    The block has Keras's own default, float32. TensorFlow's seed stays that of the training, and
    its operations stay deterministic.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    floatx = keras.config.floatx()
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
