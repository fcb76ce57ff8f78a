"""Every key at its default, for a kind of autoencoder; a config takes these and edits some.

`docs/configuration.md` explains each key.
"""

from ml_collections import ConfigDict

from trainer.config import defaults


def get_config(kind: str = "dense") -> ConfigDict:
    return defaults(kind)
