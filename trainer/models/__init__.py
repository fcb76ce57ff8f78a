"""The kinds of autoencoder: one package per kind, found by its name.

The package `trainer.models.<kind>` declares the kind's keys, as `Settings`, without TensorFlow;
its module `model` has the networks and the loss, as `Model`. A package elsewhere is named with a
dot: `model.name=my_package.my_kind`.
"""

import importlib
from typing import TYPE_CHECKING

from trainer.config import ModelSettings, kind_package

if TYPE_CHECKING:
    from trainer.models.base import Autoencoder


def create(image_shape: tuple[int, ...], settings: ModelSettings) -> "Autoencoder":
    """Builds the kind of the settings for images [H, W, C], or for vectors [D] if it takes them.

    Raises:
      UserError: the kind cannot have these settings with inputs of this shape.
    """
    kind = importlib.import_module(f"{kind_package(settings.name)}.model")
    model = kind.Model(image_shape, settings)
    model.output_bias = settings.output_bias
    return model
