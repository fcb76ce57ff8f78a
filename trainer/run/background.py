"""Saves checkpoints in the background, while the training continues."""

import sys
import time
from concurrent import futures
from typing import Any

from trainer.errors import StorageError
from trainer.run.checkpoints import Checkpoints, State

PATIENCE_SECONDS = 600.0  # of training while no checkpoint can be written


class BackgroundSaver:
    """Saves checkpoints one after the other in a thread.

    If a checkpoint cannot be written, a line says so; training ends after PATIENCE_SECONDS of that.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._thread = futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: futures.Future[None] | None = None
        self._failing_since: float | None = None

    def save(self, step: int, state: State, **settings: Any) -> None:
        """Calls `Checkpoints.save` once the previous checkpoint is committed or has failed.

        Raises:
          StorageError: no checkpoint could be written for PATIENCE_SECONDS.
        """
        error = self._result()
        if error is None:
            self._failing_since = None
        else:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            if now - self._failing_since >= PATIENCE_SECONDS:
                raise _given_up(error)
            print(f"CHECKPOINT LOST: {error}; training continues", file=sys.stderr, flush=True)
        self._saving = self._thread.submit(self._checkpoints.save, step, state, **settings)

    def wait(self) -> None:
        """Waits until the last checkpoint is committed.

        Raises:
          StorageError: the last checkpoint could not be written.
        """
        error = self._result()
        if error is not None:
            raise _given_up(error)

    def close(self) -> None:
        """Waits until the last checkpoint is committed, and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _result(self) -> StorageError | None:
        saving, self._saving = self._saving, None
        try:
            if saving:
                saving.result()
        except StorageError as error:
            return error
        return None


def _given_up(error: StorageError) -> StorageError:
    return StorageError(
        f"{error}; start again to resume from the last good one, which is untouched"
    )
