"""Reads examples, by a module for each source, found by its name.

`data.name` is the source's name and perhaps an argument, as in "images:DIR". A name without a
module is a TFDS data set. To add a source, add a module with the names that `Source` lists.
"""

import dataclasses
import importlib
from typing import Generic, Protocol, TypeVar, cast

import numpy as np

from trainer.config import Data, source_of
from trainer.data.dataset import Split
from trainer.data.features import Features

MEMORY = "memory"  # the source of vectors that a program passes to `data.load`
_Settings = TypeVar("_Settings", bound=Data)


@dataclasses.dataclass(frozen=True)
class Request(Generic[_Settings]):
    """Tells a source which examples to read."""

    settings: _Settings
    allowed_bytes: float = float("inf")  # of the host's memory
    folder: str | None = None  # of TFDS; None: TFDS_DATA_DIR
    vectors: np.ndarray | None = None  # of the source "memory"

    @property
    def argument(self) -> str:
        """Returns the text after the source's name and a colon, or ""."""
        return self.settings.name.partition(":")[2]


@dataclasses.dataclass(frozen=True)
class Splits:
    """Holds the examples of a source before any are held out."""

    train: Split
    test: Split | None = None  # None: some training examples become the test split
    validation: Split | None = None  # None: some training examples become the validation split
    features: Features | None = None  # of a table
    class_names: tuple[str, ...] = ()
    impute: str = ""  # the statistic that replaces missing numbers, "mean" or "median"
    notes: tuple[str, ...] = ()  # for the user: how the examples were read
    offset: np.ndarray | None = None  # float64 [D], which the source has subtracted from vectors


class Source(Protocol):
    """Describes the module of a source, imported without TensorFlow, which `read` may import."""

    EXAMPLE: str  # an allowed data.name, such as "images:DIR"
    RESIZES: bool  # takes data.image_size
    STAYS_IN_FILES: bool  # takes data.placement="records"
    PATH_MAY_MOVE: bool  # a resumed run may find the data at another path
    SEVERAL_PATHS: bool  # commas separate paths in the argument
    Settings: type[Data]  # the keys of config.data: the keys of every source, and its own

    @staticmethod
    def read(request: Request) -> Splits:
        """Reads the examples.

        Raises:
          UserError: the examples cannot be read, or a training cannot use them.
        """


def find(name: str) -> Source:
    """Returns the source of a `data.name`."""
    return cast(Source, importlib.import_module(f"{__name__}.{source_of(name)}"))
