"""Computes statistics of vectors in memory or in files, a block of rows at a time.

Blocks depend on the shape alone, so that vectors have the same statistics wherever they are.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.data.dataset import Records
from trainer.data.memory import blocks
from trainer.errors import listed

_SAMPLED_ROWS = 100_000
_MAX_SCALE_RATIO = 100  # of two stds
_MAX_ROUNDING = 0.01  # of a std
_FIRST_ROWS = 64  # of a block, in which a feature of few values has no more either


@dataclasses.dataclass(frozen=True)
class Moments:
    """Holds statistics of each feature, float64 [D]."""

    mean: np.ndarray
    std: np.ndarray  # exactly 0 for constant features
    lowest: np.ndarray
    highest: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray | Records) -> "Moments":
        """Computes the statistics of finite vectors [N, D], N > 0, in two passes."""
        width = rows.shape[1]
        total, squares = np.zeros(width), np.zeros(width)
        lowest, highest = np.full(width, np.inf), np.full(width, -np.inf)
        for block in blocks(rows):
            total += block.sum(axis=0, dtype=np.float64)
            np.minimum(lowest, block.min(axis=0), out=lowest)
            np.maximum(highest, block.max(axis=0), out=highest)
        mean = total / len(rows)
        for block in blocks(rows):
            squares += np.square(block - mean).sum(axis=0)
        return cls(
            mean, np.where(lowest == highest, 0, np.sqrt(squares / len(rows))), lowest, highest
        )


def columns(rows: np.ndarray | Records, allowed_bytes: float) -> Iterator[np.ndarray]:
    """Yields each feature [N] of vectors [N, D].

    Rows in files are read again for as many features as half of the allowed bytes hold.
    """
    if isinstance(rows, np.ndarray):
        yield from rows.T
        return
    count, width = rows.shape
    group = int(max(1, min(width, allowed_bytes / 2 / (count * rows.dtype.itemsize))))
    for first in range(0, width, group):
        held = np.empty((min(group, width - first), count), rows.dtype)
        start = 0
        for block in blocks(rows):
            held[:, start : start + len(block)] = block[:, first : first + group].T
            start += len(block)
        yield from held


def few_values(rows: np.ndarray | Records, max_values: int) -> dict[int, np.ndarray]:
    """Returns the different values of each feature of at most `max_values`, by its place."""
    found: dict[int, np.ndarray] | None = None
    for block in blocks(rows):
        if found is None:
            first = np.sort(block[:_FIRST_ROWS], axis=0)
            changes = np.count_nonzero(np.diff(first, axis=0), axis=0)
            found = {int(place): first[:0, 0] for place in np.flatnonzero(changes < max_values)}
        found = {
            place: values
            for place, known in found.items()
            if len(values := np.union1d(known, block[:, place])) <= max_values
        }
    return found or {}


def are_rounded(moments: Moments) -> np.ndarray:
    """Returns which features float32 rounds by more than a hundredth of their std, bool [D].

    A feature that is constant in float32 may have differed before.
    """
    rounding = _spacing(moments) / 2
    is_coarse = rounding > _MAX_ROUNDING * moments.std
    return np.where(moments.std > 0, is_coarse, rounding >= 1)


def _spacing(moments: Moments) -> np.ndarray:
    """Returns the distances of float32 numbers at the largest values of features [D]."""
    largest = np.maximum(np.abs(moments.lowest), np.abs(moments.highest))
    return np.spacing(largest.astype(np.float32))


def rounding_note(moments: Moments, names: Sequence[str]) -> tuple[str, ...]:
    """Returns a note if float32 rounds features by more than a hundredth of their std."""
    places = np.flatnonzero(are_rounded(moments)).tolist()
    if not places:
        return ()
    spacing = _spacing(moments)
    rounded = listed(f"{names[place]!r} to multiples of {spacing[place]:.3g}" for place in places)
    return (f"float32 rounds {rounded}; subtract a constant, such as the mean, to keep digits",)


def scale_note(rows: np.ndarray | Records, names: Sequence[str]) -> tuple[str, ...]:
    """Returns a note if the stds of features [N, D] differ so much that some dominate the loss.

    Computes the stds from at most 100,000 evenly spaced rows.
    """
    step = -(-len(rows) // _SAMPLED_ROWS)
    every = slice(None, None, step)
    std = Moments.of(rows[every] if isinstance(rows, np.ndarray) else rows.subset(every)).std
    varying = np.flatnonzero(std)
    if not len(varying):
        return ()
    low, high = (varying[choose(std[varying])] for choose in (np.argmin, np.argmax))
    if std[high] <= _MAX_SCALE_RATIO * std[low]:
        return ()
    return (
        f"the std of features ranges from {std[low]:.3g} ({names[low]}) to {std[high]:.3g} "
        f"({names[high]}): large ones dominate the loss; data.standardise=true scales all alike",
    )
