"""The kinds of autoencoder, one module each, found by the module's name."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

import keras

from trainer.errors import UserError, require_at_least, require_choice
from trainer.models.base import Autoencoder

_NOT_KINDS = ("base", "networks")


def kinds() -> tuple[str, ...]:
    """The names that `create` takes."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in names if name not in _NOT_KINDS)


def create(image_shape: tuple[int, int, int], *, name: str, **settings: Any) -> Autoencoder:
    """Builds the kind `name` for images [H, W, C].

    Raises:
      UserError: the kind is not known, or one of its settings is not possible.
    """
    require_choice("model.name", name, kinds())
    for key, value in settings.items():
        if key.endswith("activation"):
            _require_activation(f"model.{key}", value)
        for size in value if isinstance(value, Sequence) else (value,):
            if isinstance(size, int):
                require_at_least(f"model.{key}", size, 1)
    return importlib.import_module(f"{__name__}.{name}").Model(image_shape, **settings)


def _require_activation(key: str, name: str) -> None:
    try:
        keras.activations.get(name)
    except ValueError as error:
        raise UserError(f"{key}={name!r} is not known to keras.activations") from error
