"""Gives every key of a kind of autoencoder its default; a config edits some of the defaults.

`docs/configuration.md` explains each key.
"""

from ml_collections import ConfigDict

from trainer.config import defaults


def get_config(kind: str = "dense") -> ConfigDict:
    return defaults(kind)
