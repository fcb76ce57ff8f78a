"""Provides the images that every framework trains on, and measures its speed."""

import time
from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.nets import IMAGE_SHAPE

IMAGES = 60_000


def images() -> np.ndarray:
    """Returns scikit-learn's digits, enlarged and repeated, uint8 [60000, 28, 28, 1]."""
    small = load_digits().images * (255 / 16)
    large = np.pad(np.kron(small, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    return np.resize(large.astype(np.uint8)[..., np.newaxis], (IMAGES, *IMAGE_SHAPE))


def rate(call: Callable[[], int], seconds: float) -> float:
    """Returns images per second of `call`, which trains on as many images as it returns.

    Measures for `seconds` and at least three calls, after two calls that compile.
    """
    call()
    call()
    trained, calls, began = 0, 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - began < seconds:
        trained += call()
        calls += 1
    return trained / (time.perf_counter() - began)
