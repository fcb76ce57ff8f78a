"""config.data -> Dataset -> batches: sources, readers of files, splits, preprocessing."""

from typing import Any

import numpy as np

from trainer.data.dataset import Dataset, Records, Scaling, Split, fill_in, scaling_of
from trainer.data.keys import Data, parse
from trainer.data.sources import settings

__all__ = [
    "Data",
    "Dataset",
    "Records",
    "Scaling",
    "Split",
    "fill_in",
    "load",
    "scaling_of",
    "settings",
]


def load(settings: Any, *, folder: str | None = None, vectors: np.ndarray | None = None) -> Dataset:
    """Reads a data set into memory, or opens it where it stays in files, and preprocesses it.

    Args:
      settings: `config.data`, or another object whose attributes are its keys.
      folder: of data sets of TFDS, instead of TFDS_DATA_DIR. One that is not there is downloaded,
        by the first process that asks for it.
      vectors: finite numbers [N, D], copied: the training examples of the source "memory".

    Raises:
      UserError: the data set is not known, cannot be read, or does not suit the settings.
    """
    from trainer.data import preprocess, sources

    splits = sources.read(settings, folder, vectors)
    return preprocess.make_dataset(splits, parse(Data, settings))
