"""Silence, where TensorFlow says what a person need not read."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_NVIDIA_DRIVERS = (Path("/proc/driver/nvidia"), Path("/usr/lib/wsl/lib/libcuda.so.1"))  # WSL 2


@contextlib.contextmanager
def muted_stderr() -> Iterator[None]:
    """Drops what is written to the file descriptor, since TensorFlow's C++ code writes there."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def import_tensorflow() -> None:
    """Imports TensorFlow; where there is no NVIDIA driver, without its notes on the lack of one."""
    if any(driver.exists() for driver in _NVIDIA_DRIVERS):
        importlib.import_module("tensorflow")
    else:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with muted_stderr():
            importlib.import_module("tensorflow")
