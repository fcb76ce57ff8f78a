"""The images that every side trains on, and how it is timed."""

import time
from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.nets import IMAGE_SHAPE

IMAGES = 60_000


def images() -> np.ndarray:
    """The digits inside scikit-learn, enlarged, over and over, uint8 [60000, 28, 28, 1]."""
    small = load_digits().images * (255 / 16)
    large = np.pad(np.kron(small, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    return np.resize(large.astype(np.uint8)[..., np.newaxis], (IMAGES, *IMAGE_SHAPE))


def rate(call: Callable[[], object], images_a_call: int, seconds: float) -> float:
    """Images per second of calls that each train on so many, after one that compiles."""
    call()
    call()
    calls, began = 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - began < seconds:
        call()
        calls += 1
    return calls * images_a_call / (time.perf_counter() - began)
