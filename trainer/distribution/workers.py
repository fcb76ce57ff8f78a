"""What the workers of one training tell each other, by collectives, once TensorFlow runs on them.

A training has a single worker unless TF_CONFIG names more. All of them call the same methods in the
same order: each waits for the others in every one.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from trainer.distribution.collectives import SumOverWorkers
from trainer.distribution.rendezvous import Cluster
from trainer.distribution.strategy import Strategy
from trainer.distribution.variables import values_of
from trainer.errors import UserError, WorkersError, require

_T = TypeVar("_T")
_TEXT_BYTES = 4096  # of which a longer text is cut
# What TensorFlow raises where a worker is gone. It may stem from something else, as may Internal.
_LOST_WORKER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Workers:
    """This worker among those of a strategy; the chief, of number 0, alone writes the workdir."""

    def __init__(self, strategy: Strategy, cluster: Cluster | None = None):
        self.strategy = strategy
        self._sum = SumOverWorkers(strategy)
        self.index = cluster.index if cluster else 0
        self.count = len(cluster.addresses) if cluster else 1
        self.is_chief = self.index == 0

    def broadcast_int(self, number: int) -> int:
        """The chief's number, whatever the others hand in."""
        return int(self._sum(np.array([number if self.is_chief else 0]))[0])

    def any(self, asked: bool) -> bool:
        """Whether one of the workers says so."""
        return bool(self._sum(np.array([int(asked)]))[0])

    def wait(self) -> None:
        """Returns once all of them have come so far."""
        self.any(False)

    def texts(self, own: str) -> list[str]:
        """What each of them has to say."""
        said = own.encode()[:_TEXT_BYTES]
        rows = np.zeros((self.count, _TEXT_BYTES), np.int64)
        rows[self.index, : len(said)] = list(said)
        all_rows = self._sum(rows.ravel()).reshape(rows.shape).astype(np.uint8)
        return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in all_rows]

    def run_everywhere(self, stage: Callable[[], _T]) -> _T:
        """Does something on every worker, and ends all of them where one cannot go on.

        Raises:
          UserError: what the stage raised here or, with the worker's name, elsewhere.
        """
        try:
            result = stage()
        except UserError as error:
            self.texts(str(error))
            raise
        for index, mistake in enumerate(self.texts("")):
            require(not mistake, f"worker {index}: {mistake}")
        return result

    def run_on_chief(self, stage: Callable[[], _T]) -> _T | None:
        """Does something on the chief alone, and ends all workers where it cannot go on.

        Raises:
          UserError: as `run_everywhere`.
        """
        return self.run_everywhere(lambda: stage() if self.is_chief else None)

    def require_alike(self, what: str, own: str) -> None:
        """Raises UserError on all workers unless each has the same to say of it."""
        said = self.texts(own)
        differing = [f"worker {index}" for index, its in enumerate(said) if its != said[0]]
        require(not differing, f"{what} differ between worker 0 and {', '.join(differing)}")

    def broadcast_variables(self, variables: Mapping[str, Any]) -> None:
        """Assigns the chief's values, to the bit, to the variables of all workers."""
        if self.count == 1:
            return
        values = values_of(variables)
        raw = b"".join(value.tobytes() for value in values.values())
        padded = np.frombuffer(raw + bytes(-len(raw) % 8), np.int64)
        raw = self._sum(padded if self.is_chief else np.zeros_like(padded)).tobytes()
        start = 0
        for path, value in values.items():
            its = np.frombuffer(raw, value.dtype, value.size, start).reshape(value.shape)
            variables[path].assign(its)
            start += value.nbytes


@contextlib.contextmanager
def watched(cluster: Cluster | None) -> Iterator[None]:
    """Tells those errors of TensorFlow that stem from a worker that is gone.

    Raises:
      WorkersError: instead of them.
    """
    try:
        yield
    except (*_LOST_WORKER_ERRORS, tf.errors.InternalError) as error:
        if cluster is None:
            raise
        gone = [cluster.name(index) for index in cluster.unreachable_workers()]
        if not gone and not isinstance(error, _LOST_WORKER_ERRORS):
            raise
        who = (
            f"{' and '.join(gone)} cannot be reached"
            if gone
            else "another has ended or does not answer"
        )
        why = str(error.message).strip().partition("\n")[0]
        raise WorkersError(
            f"{cluster.name(cluster.index)} ends, since {who}; start all of them again "
            f"({type(error).__name__}: {why})"
        ) from error
