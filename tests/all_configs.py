"""Every config and every kind there is: a new one is tested the moment it exists."""

import importlib
from pathlib import Path

import configs
from trainer.config import defaults, kind_settings, kinds, parse_model

CONFIGS = sorted(
    path.stem
    for path in Path(configs.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "base")
)
KINDS = kinds()
CONVOLUTIONAL = [kind for kind in KINDS if kind_settings(kind).for_vectors is None]


def load_config(name):
    """The config of `configs/<name>.py`."""
    return importlib.import_module(f"configs.{name}").get_config()


def settings_of(kind, **changes):
    """The checked settings of a kind, with other values of some keys."""
    return parse_model(defaults(kind).model.to_dict() | changes)


def tiny(kind):
    """The settings of a small model of a kind."""
    return importlib.import_module(f"trainer.models.{kind}").TINY


# One config of each kind, not by Adadelta, whose first steps hardly change the losses.
CONFIG_OF = {
    load_config(name).model.name: name
    for name in reversed(CONFIGS)
    if load_config(name).optimizer.name != "adadelta"
}
