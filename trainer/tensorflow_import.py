"""Imports TensorFlow without messages that no user needs."""

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from trainer.limits import limit_threads

_NVIDIA_DRIVERS = (Path("/proc/driver/nvidia"), Path("/usr/lib/wsl/lib/libcuda.so.1"))  # WSL 2


@contextlib.contextmanager
def muted_stderr() -> Iterator[None]:
    """Drops what is written to file descriptor 2, which TensorFlow's C++ code uses directly."""
    sys.stderr.flush()
    original = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)


@contextlib.contextmanager
def paused_garbage_collector() -> Iterator[None]:
    """Pauses Python's garbage collector, whose searches take a quarter of an import."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras, with as many threads as a CPU quota allows.

    Drops notes on missing GPUs where there is no NVIDIA driver.
    """
    limit_threads()
    has_driver = any(driver.exists() for driver in _NVIDIA_DRIVERS)
    if not has_driver:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with paused_garbage_collector():
        with contextlib.nullcontext() if has_driver else muted_stderr():
            importlib.import_module("tensorflow")
        importlib.import_module("keras")
