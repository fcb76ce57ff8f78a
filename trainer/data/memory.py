"""Limits the host's memory that data may fill; makes arrays that TensorFlow can share."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil

from trainer.errors import require
from trainer.limits import memory_limits

GIB = 2**30
BLOCK_ROWS = 4096  # rows that are read, copied or generated at a time
_BLOCK_BYTES = 2**26  # of such rows, at most
_MEMORY_SHARE = 0.8  # of the available memory, which a data set may fill by default
_ALIGNMENT_BYTES = 64  # TensorFlow shares the memory of arrays that begin at a multiple of this


def allowed_bytes(memory_gib: float) -> float:
    """Returns how many bytes a data set may fill, by `data.memory_gib`."""
    return memory_gib * GIB or _MEMORY_SHARE * available_bytes()


def available_bytes() -> int:
    """Returns how much memory this process can still take, of the host and within its cgroups."""
    limits = (limit.available_bytes for limit in memory_limits())
    return min([psutil.virtual_memory().available, *limits])


def total_bytes() -> int:
    """Returns the memory of the host, or the least that a cgroup of this process may take."""
    return min([psutil.virtual_memory().total, *(limit.total_bytes for limit in memory_limits())])


def require_fits(what: str, size: float, allowed: float, advice: str = "") -> None:
    """Raises UserError if `size` bytes are more than the allowed ones."""
    require(size <= allowed, f"{usage(what, size, allowed)}{'; ' if advice else ''}{advice}")


def usage(what: str, size: float, allowed: float) -> str:
    """Describes how much of the allowed memory something takes."""
    return f"{what} takes {size / GIB:.1f} GiB of {allowed / GIB:.1f} GiB of memory"


def aligned_empty(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    """Returns an uninitialised array whose memory TensorFlow can share."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + size].view(dtype).reshape(shape)


def is_aligned(array: np.ndarray) -> bool:
    """Returns whether the array begins where TensorFlow can share its memory."""
    return array.ctypes.data % _ALIGNMENT_BYTES == 0


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """Returns a copy whose memory TensorFlow can share."""
    copy = aligned_empty(array.shape, array.dtype)
    for to, block in zip(blocks(copy), blocks(array), strict=True):
        to[:] = block
    return copy


def blocks(rows: Any) -> Iterator[np.ndarray]:
    """Yields the rows of an array, as views, or of `Records`, a block at a time."""
    size = block_rows(rows)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def block_rows(rows: Any) -> int:
    """Returns the rows of a block: at most 4096, and of 64 MiB unless one row is larger."""
    row_bytes = math.prod(rows.shape[1:]) * rows.dtype.itemsize
    return max(1, min(BLOCK_ROWS, _BLOCK_BYTES // max(1, row_bytes)))
