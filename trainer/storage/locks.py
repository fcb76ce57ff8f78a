"""Locks among the processes of all hosts that share a folder: one works, the others wait."""

import contextlib
import fcntl
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trainer.errors import UserError

_WAITING_LINE_SECONDS = 10  # between two lines on what one waits for
_TURN_SECONDS = 0.2  # of waiting, before the lock is tried again


@contextlib.contextmanager
def locked(path: Path, advice: str) -> Iterator[None]:
    """Makes a file and its folder, and keeps every other process from locking it meanwhile.

    The system takes the lock from a process that dies.

    Raises:
      UserError: the folder cannot be written or locked; the line ends in the advice.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); {advice}") from error
    with lock:
        try:
            acquire(lock, f"the process that holds {path}")
        except OSError as error:
            raise UserError(f"{folder} cannot be locked ({error.strerror}); {advice}") from error
        yield


def acquire(lock: IO, holder: str, patience_seconds: float = math.inf) -> bool:
    """Locks a file, whether at once or in so long; says meanwhile for whom the wait is.

    Raises:
      OSError: its file system cannot lock.
    """
    deadline = time.monotonic() + patience_seconds
    said = -math.inf
    while not _lock_now(lock):
        if time.monotonic() > deadline:
            return False
        if time.monotonic() > said + _WAITING_LINE_SECONDS:
            said = time.monotonic()
            print(f"waiting for {holder}", flush=True)
        time.sleep(_TURN_SECONDS)
    return True


def _lock_now(lock: IO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
