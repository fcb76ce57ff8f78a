"""Every config there is: a new one is tested the moment it exists."""

import importlib
from pathlib import Path

import configs

CONFIGS = sorted(
    path.stem
    for path in Path(configs.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "base")
)
CONVOLUTIONAL = ("conv", "deep_conv")  # the kinds that take no vectors


def load_config(name):
    """The config of `configs/<name>.py`."""
    return importlib.import_module(f"configs.{name}").get_config()
