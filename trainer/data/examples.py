"""Examples and their labels: in memory, or in files from which they are read as they are drawn."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import tensorflow as tf

BLOCK_ROWS = 4096  # read, moved or made at a time
GIB = 2**30
_MEMORY_SHARE = 0.8  # of the host's free memory, that images may fill
_ALIGNMENT = 64  # bytes, that let TensorFlow share an array's memory


class Records:
    """Rows that stay in files, and are read when they are indexed.

    Serves as an array [N, ...] does, of `shape` and `dtype`, by slices and by integer arrays.
    """

    def __init__(self, read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray):
        """Takes what reads rows [n, ...] by their numbers [n] in the files, and the numbers [N]."""
        self._read = read
        self._rows = rows
        first = self[:1]
        self.shape = (len(self._rows), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        numbers = self._rows[chosen]
        read = self._read(numbers.ravel())
        return read.reshape(*numbers.shape, *read.shape[1:])

    def subset(self, chosen: np.ndarray) -> "Records":
        """The rows that a mask [N] chooses, still to be read."""
        return Records(self._read, self._rows[chosen])


@dataclasses.dataclass(frozen=True)
class Images:
    """Images [N, H, W, C], uint8 or float in [0, 1], and their labels [N] where there are any.

    Vectors, float32 [N, D] of any numbers, stand in the place of images where a user brings some.
    """

    images: np.ndarray | Records
    labels: np.ndarray | Records | None
    file_names: np.ndarray | None = None  # str [N], of images in a folder

    def __len__(self) -> int:
        return len(self.images)

    def read(self, most: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """All images and labels in memory, or so many at most, evenly spread."""
        chosen: slice | np.ndarray = slice(None)
        if most is not None and len(self) > most:
            chosen = np.linspace(0, len(self) - 1, most).astype(int)
        return self.images[chosen], None if self.labels is None else self.labels[chosen]


def to_unit(images: np.ndarray) -> np.ndarray:
    """Images as float32 in [0, 1]; vectors as they are."""
    return images / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)


def blocks(rows: np.ndarray | Records) -> Iterator[np.ndarray]:
    """The rows, so many at a time: of an array, views that can be written to."""
    for start in range(0, len(rows), BLOCK_ROWS):
        yield rows[start : start + BLOCK_ROWS]


def shared(array: np.ndarray) -> np.ndarray:
    """A copy whose memory TensorFlow can share."""
    copy = empty(array.shape, array.dtype.type)
    copy[:] = array
    return copy


def empty(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """An array whose memory TensorFlow can share."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def allowed_bytes(memory_gib: float) -> float:
    """What images may fill of the host's memory, as `data.load` takes it."""
    return memory_gib * GIB or _MEMORY_SHARE * psutil.virtual_memory().available


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same without tf.data's tuner, for whose thread an iterator may wait a minute at its end.

    That thread sleeps twice as long each time, and may miss that it is to stop.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
