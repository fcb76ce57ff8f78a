"""Where examples come from: a module for each source, found by its name.

`data.name` is the source's name and perhaps an argument, as in "images:DIR". A name without a
module is that of a TFDS data set. To add a source, add a module with what `Source` lists.
"""

import dataclasses
import importlib
from typing import Generic, Protocol, TypeVar, cast

import numpy as np

from trainer.config import Data, source_of
from trainer.data.dataset import Split

MEMORY = "memory"  # the source of vectors that a program passes to `data.load`
_Settings = TypeVar("_Settings", bound=Data)


@dataclasses.dataclass(frozen=True)
class Request(Generic[_Settings]):
    """What is asked of a source."""

    settings: _Settings
    name: str  # data.name
    image_size: int = 0
    placement: str = "auto"
    allowed_bytes: float = float("inf")  # of the host's memory
    folder: str | None = None  # of TFDS; None: that of TFDS_DATA_DIR
    vectors: np.ndarray | None = None  # of the source "memory"

    @property
    def argument(self) -> str:
        """What follows the source's name and a colon; "": nothing."""
        return self.name.partition(":")[2]


@dataclasses.dataclass(frozen=True)
class Splits:
    """The examples of a source before any are held out."""

    train: Split
    test: Split | None = None  # None: a part of the training examples becomes the test split
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    impute: str = ""  # the statistic that replaces missing numbers, "mean" or "median"


class Source(Protocol):
    """What a module of a source has. It is imported without TensorFlow; `read` may import it."""

    EXAMPLE: str  # how data.name is written, such as "images:DIR"
    RESIZES: bool  # takes data.image_size
    STAYS_IN_FILES: bool  # takes data.placement="records"
    PATH_MAY_MOVE: bool  # a resumed run may find the data at another path
    Settings: type[Data]  # the keys of config.data: those of every source, and its own

    @staticmethod
    def read(request: Request) -> Splits:
        """Reads the examples.

        Raises:
          UserError: they cannot be read, or are not such that a training can use them.
        """


def find(name: str) -> Source:
    """Returns the source of this `data.name`."""
    return cast(Source, importlib.import_module(f"{__name__}.{source_of(name)}"))
