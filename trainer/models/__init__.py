"""The kinds of autoencoder, one module each, found by the module's name."""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Sequence
from typing import Any

import keras

from trainer.errors import UserError, require, require_choice, require_kind
from trainer.models.base import Autoencoder, ImageGrid, StepContext

__all__ = ["Autoencoder", "ImageGrid", "StepContext", "create", "kinds"]
_NOT_KINDS = ("base", "convolutions", "networks")


def kinds() -> tuple[str, ...]:
    """The names that `create` takes."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in names if name not in _NOT_KINDS)


def create(image_shape: tuple[int, ...], **settings: Any) -> Autoencoder:
    """Builds the kind named by the setting `name`, from the others, for images [H, W, C].

    The shape (D,) of vectors serves every kind whose layers are dense.

    Raises:
      UserError: the kind is not known, or one of its settings is missing or not possible.
    """
    name = settings.pop("name", None)
    require_choice("model.name", name, kinds())
    kind = importlib.import_module(f"{__name__}.{name}").Model
    parameters = inspect.signature(kind).parameters
    keys = parameters.keys() - {"image_shape"}
    require(
        settings.keys() == keys,
        f"model.name={name!r} takes the keys {', '.join(sorted(keys))}, "
        f"not {', '.join(sorted(settings)) or 'none'}",
    )
    for key, value in settings.items():
        annotation = parameters[key].annotation
        if annotation in (str, bool):  # the kind checks which values are allowed
            require_kind(f"model.{key}", value, annotation)
        if key.endswith("activation"):
            _require_activation(f"model.{key}", value)
        elif annotation is float:
            _require_amount(f"model.{key}", value)
        elif annotation not in (str, bool):
            _require_sizes(f"model.{key}", value, several=annotation is not int)
    return kind(image_shape, **settings)


def _require_activation(key: str, name: str) -> None:
    try:
        keras.activations.get(name)
    except ValueError as error:
        raise UserError(f"{key}={name!r} is not known to keras.activations") from error


def _require_sizes(key: str, value: int | Sequence[int], several: bool) -> None:
    sizes = value if several else (value,)
    require(
        isinstance(sizes, tuple | list) and all(type(size) is int and size > 0 for size in sizes),
        f"{key}={value!r} is not allowed; only {'tuples of ' if several else ''}whole numbers of "
        "at least 1 are",
    )


def _require_amount(key: str, value: float) -> None:
    require(
        type(value) in (int, float) and 0 <= value < math.inf,
        f"{key}={value!r} is not allowed; only finite numbers of at least 0 are",
    )
