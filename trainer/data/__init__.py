"""From config.data to a Dataset and its batches: sources, file readers, splits, preprocessing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from trainer.config import Data, parse_data
from trainer.data import sources
from trainer.data.dataset import Dataset, Records, Scaling, Split, fill_in, scaling_of
from trainer.data.features import Features
from trainer.data.memory import allowed_bytes
from trainer.errors import require

__all__ = ["Dataset", "Features", "Records", "Scaling", "Split", "fill_in", "load", "scaling_of"]


def load(
    settings: Data | ConfigDict | Mapping[str, Any],
    *,
    folder: str | None = None,
    vectors: np.ndarray | None = None,
) -> Dataset:
    """Reads a data set into memory, or opens it where it stays in files, and preprocesses it.

    Args:
      settings: `config.data`.
      folder: where data sets of TFDS are, instead of TFDS_DATA_DIR. The first process to ask for a
        missing data set downloads it.
      vectors: finite numbers [N, D], the training examples of the source "memory"; copied.

    Raises:
      UserError: the data set is not known, cannot be read, or does not suit the settings.
    """
    from trainer.data import preprocess

    keys = parse_data(settings)
    request = sources.Request(
        settings=keys,
        allowed_bytes=allowed_bytes(keys.memory_gib),
        folder=folder,
        vectors=vectors,
    )
    source, argument = sources.find(keys.name), request.argument
    is_placeholder = keys.name == source.EXAMPLE and argument.isupper()
    require(
        not is_placeholder or Path(argument).exists(),
        f"data.name={keys.name!r} is a placeholder; replace {argument} by the path of your data",
    )
    return preprocess.make_dataset(source.read(request), keys)
