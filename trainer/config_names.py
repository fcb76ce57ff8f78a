"""The configs that come with the trainer, by their names: `dense` is configs/dense.py.

They are found at run time, wherever they are installed: nothing in the trainer imports them.
"""

import importlib
from pathlib import Path

from ml_collections import ConfigDict

from trainer.errors import require_choice

_PACKAGE = "configs"


def path(name: str) -> Path:
    """The file of a config.

    Raises:
      UserError: none has this name.
    """
    (folder,) = importlib.import_module(_PACKAGE).__path__
    names = sorted(file.stem for file in Path(folder).glob("[a-z]*.py"))
    require_choice("config", name, tuple(name for name in names if name != "base"))
    return Path(folder) / f"{name}.py"


def load(name: str) -> ConfigDict:
    """A config, to be edited.

    Raises:
      UserError: none has this name.
    """
    return importlib.import_module(f"{_PACKAGE}.{path(name).stem}").get_config()
