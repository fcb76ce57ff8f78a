"""Represents a data set in memory or in files: its three splits, and the scaling of vectors."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.data.features import Features
from trainer.data.memory import block_rows

_FINGERPRINT_ROWS = 100_000  # of a split; a larger split is sampled at even distances


class Records:
    """Reads rows [N, ...] from files when they are indexed.

    Supports `len`, `shape`, `dtype`, and indexing by slices and by integer arrays, as an array.
    """

    def __init__(self, read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray):
        """Takes a function that reads rows [n, ...] at indices [n] of the files, and N indices."""
        self._read = read
        self._rows = rows
        first = self[:1]
        self.shape = (len(self._rows), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        rows = self._rows[index]
        read = self._read(rows.ravel())
        return read.reshape(*rows.shape, *read.shape[1:])

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Records":
        """Returns the rows with a function of rows [n, ...] applied when they are read."""
        return Records(lambda rows: function(self._read(rows)), self._rows)

    def subset(self, chosen: np.ndarray | slice) -> "Records":
        """Returns the rows of a slice, or where a mask [N] is true, without reading them."""
        return Records(self._read, self._rows[chosen])


@dataclasses.dataclass(frozen=True)
class Split:
    """Holds the examples of a split, with labels if there are any.

    `images` are images [N, H, W, C], uint8 or float32 in [0, 1]; or vectors [N, D], float32.
    """

    images: np.ndarray | Records
    labels: np.ndarray | Records | None  # int64 [N]
    file_names: np.ndarray | None = None  # str [N], of a folder's images
    ids: Mapping[str, np.ndarray | Records] = dataclasses.field(
        default_factory=dict
    )  # [N], of a table

    def __len__(self) -> int:
        return len(self.images)

    def evenly_spaced(self, max_rows: int) -> slice | np.ndarray:
        """Returns the indices of all examples, or of `max_rows` evenly spaced ones."""
        if len(self) <= max_rows:
            return slice(None)
        return evenly_spaced(len(self), max_rows)

    def read(self, rows: slice | np.ndarray = slice(None)) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the images and labels of all or some examples as arrays."""
        return self.images[rows], None if self.labels is None else self.labels[rows]


def named(labels: np.ndarray | None, class_names: Sequence[str]) -> np.ndarray | None:
    """Returns the class names of labels [N], or the labels if the classes have no names."""
    return labels if labels is None or not class_names else np.array(class_names)[labels]


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Returns `count` evenly spaced indices of `total` examples, with the first and the last."""
    return np.linspace(0, total - 1, count).astype(int)


def spread_over_classes(labels: np.ndarray | Records | None, count: int, total: int) -> np.ndarray:
    """Returns the indices of up to `count` of `total` examples to be shown, int64.

    Takes an example of each class in turn, the first of the split first; without labels in memory
    the first examples.
    """
    if not isinstance(labels, np.ndarray):
        return np.arange(min(count, total))
    by_class = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)[:count]]
    turns = [rows[turn] for turn in range(count) for rows in by_class if turn < len(rows)]
    return np.array(turns[:count], np.int64)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Standardises vectors [..., D] by a mean and a std, both float64 [D]."""

    mean: np.ndarray
    std: np.ndarray

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Returns (vectors - mean) / std, float32."""
        return ((vectors - self.mean) / self.std).astype(np.float32)

    def undo(self, vectors: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
        """Returns vectors * std + mean, of a dtype: the inverse of `apply`."""
        return (vectors * self.std + self.mean).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Holds the three splits of a data set, which share no example."""

    train: Split
    validation: Split
    test: Split
    scaling: Scaling | None = None  # of standardised vectors
    features: Features | None = None  # of a table
    class_names: tuple[str, ...] = ()  # by label, if the source names its classes
    fill: np.ndarray | None = None  # float64 [D], imputed for missing values of a table
    notes: tuple[str, ...] = ()  # for the user: how the examples were read

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Returns (H, W, C) of images, (D,) of vectors."""
        return tuple(self.train.images.shape[1:])

    @property
    def unit(self) -> str:
        """Returns what to call the examples: "images", or "rows" of a table or of vectors."""
        return "images" if len(self.image_shape) > 1 else "rows"

    def inputs(self) -> dict[str, Any]:
        """Describes a model's inputs for config.json, from which `scaling_of` reads the scaling.

        `mean`, `std` and `fill` are in the units of the source.
        """
        inputs: dict[str, Any] = {"image_shape": list(self.image_shape)}
        if self.features is not None:
            inputs |= self.features.to_inputs()
        if self.class_names:
            inputs["class_names"] = list(self.class_names)
        if self.fill is not None:
            inputs["fill"] = self.fill.tolist()
        if self.scaling is not None:
            inputs |= {name: array.tolist() for name, array in vars(self.scaling).items()}
        return inputs

    def fingerprint(self, splits: Sequence[str] = ("train", "validation", "test")) -> str:
        """Returns the SHA-256 of the splits' images and labels, in hexadecimal digits.

        A split of more than 100,000 examples is sampled.
        """
        digest = hashlib.sha256()
        for split in (getattr(self, name) for name in splits):
            sample = evenly_spaced(len(split), min(len(split), _FINGERPRINT_ROWS))
            for array in (split.images, split.labels):
                if array is not None:
                    digest.update(f"{array.shape} {array.dtype}".encode())
                    for start in range(0, len(sample), size := block_rows(array)):
                        rows = array[sample[start : start + size]]
                        digest.update(np.ascontiguousarray(rows).data)
        return digest.hexdigest()


def to_unit(images: np.ndarray) -> np.ndarray:
    """Returns uint8 images as float32 in [0, 1], other arrays as float32."""
    return images / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)


def scaling_of(inputs: Mapping[str, list]) -> Scaling | None:
    """Returns the scaling in `Dataset.inputs`, or None if the inputs are not standardised."""
    if "mean" not in inputs:
        return None
    return Scaling(*(np.array(inputs[name], np.float64) for name in ("mean", "std")))


def fill_in(vectors: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Replaces the missing values, NaN, of vectors [..., D] by `fill` [D], in place."""
    np.copyto(vectors, fill.astype(np.float32), where=np.isnan(vectors))
    return vectors
