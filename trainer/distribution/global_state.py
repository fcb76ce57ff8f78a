"""Restores global random states and Keras's default float type after a block."""

import contextlib
import random
from collections.abc import Iterator

import keras
import numpy as np


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Restores the random states of Python and NumPy, and Keras's default float type, at the end.

    Inside the block the default type is float32. TensorFlow's seed and op determinism are not
    restored.
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
