"""Coordinates the workers of one training by collectives, once TensorFlow runs on all of them.

A training has a single worker unless TF_CONFIG names more. All workers call the same methods in the
same order: each call waits for all of them.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from trainer.distribution.cluster import Cluster
from trainer.distribution.collectives import WorkerSum
from trainer.distribution.strategy import Strategy
from trainer.distribution.variables import values_of
from trainer.errors import UserError, WorkersError, require

_T = TypeVar("_T")
_MAX_TEXT_BYTES = 4096
# TensorFlow's errors if a worker is lost. InternalError can be one too, or have another cause.
_LOST_WORKER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Workers:
    """Runs collectives among the workers of a strategy; the chief, worker 0, writes the workdir."""

    def __init__(self, strategy: Strategy, cluster: Cluster | None = None):
        self.strategy = strategy
        self._sum = WorkerSum(strategy)
        self.index = cluster.index if cluster else 0
        self.count = len(cluster.addresses) if cluster else 1
        self.is_chief = self.index == 0

    def broadcast_int(self, number: int) -> int:
        """Returns the chief's number on all workers."""
        return int(self.broadcast_ints(np.array([number]))[0])

    def broadcast_ints(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the chief's numbers, int64 [n], on all workers, which pass as many."""
        return self._sum(numbers if self.is_chief else np.zeros_like(numbers))

    def any(self, condition: bool) -> bool:
        """Returns whether the condition holds on any worker."""
        return bool(self._sum(np.array([int(condition)]))[0])

    def barrier(self) -> None:
        """Waits until all workers have called this method."""
        self.any(False)

    def all_gather_text(self, text: str) -> list[str]:
        """Returns the texts of all workers, each cut to 4096 bytes."""
        encoded = text.encode()[:_MAX_TEXT_BYTES]
        rows = np.zeros((self.count, _MAX_TEXT_BYTES), np.int64)
        rows[self.index, : len(encoded)] = list(encoded)
        all_rows = self._sum(rows.ravel()).reshape(rows.shape).astype(np.uint8)
        return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in all_rows]

    def run_everywhere(self, stage: Callable[[], _T]) -> _T:
        """Calls a function on every worker, and returns its result.

        Raises:
          UserError: the function raised UserError, here or on another worker that the line names.
        """
        try:
            result = stage()
        except UserError as error:
            self.all_gather_text(str(error))
            raise
        for index, mistake in enumerate(self.all_gather_text("")):
            require(not mistake, f"worker {index}: {mistake}")
        return result

    def run_on_chief(self, stage: Callable[[], _T]) -> _T | None:
        """Calls a function on the chief alone; returns its result there and None on the others.

        Raises:
          UserError: the function raised UserError on the chief; raised on all workers.
        """
        return self.run_everywhere(lambda: stage() if self.is_chief else None)

    def require_equal_on_all(self, name: str, text: str) -> None:
        """Raises UserError on all workers if their texts differ; `name` is a plural noun."""
        texts = self.all_gather_text(text)
        differing = [f"worker {index}" for index, other in enumerate(texts) if other != texts[0]]
        require(not differing, f"{name} differ between worker 0 and {', '.join(differing)}")

    def broadcast_variables(self, variables: Mapping[str, Any]) -> None:
        """Assigns the chief's values of the variables, to the bit, on all workers."""
        if self.count == 1:
            return
        values = values_of(variables)
        raw = b"".join(value.tobytes() for value in values.values())
        padded = np.frombuffer(raw + bytes(-len(raw) % 8), np.int64)
        raw = self._sum(padded if self.is_chief else np.zeros_like(padded)).tobytes()
        start = 0
        for path, value in values.items():
            received = np.frombuffer(raw, value.dtype, value.size, start).reshape(value.shape)
            variables[path].assign(received)
            start += value.nbytes


@contextlib.contextmanager
def lost_workers_as_errors(cluster: Cluster | None) -> Iterator[None]:
    """Replaces the errors that TensorFlow raises when a worker is lost.

    Raises:
      WorkersError: instead of TensorFlow's errors, with the workers that cannot be reached.
    """
    try:
        yield
    except (*_LOST_WORKER_ERRORS, tf.errors.InternalError) as error:
        if cluster is None:
            raise
        lost = cluster.unreachable_workers()
        if not lost and not isinstance(error, _LOST_WORKER_ERRORS):
            raise
        reason = (
            f"{cluster.names(lost)} cannot be reached"
            if lost
            else "another worker has ended or does not answer"
        )
        first_line = str(error.message).strip().partition("\n")[0]
        raise WorkersError(
            f"{cluster.own_name} ends, since {reason}; start all of them again "
            f"({type(error).__name__}: {first_line})"
        ) from error
