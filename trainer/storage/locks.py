"""Locks files between processes, also of several hosts that share a folder."""

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trainer.errors import UserError, unwritable

_MESSAGE_EVERY_SECONDS = 10
_RETRY_SECONDS = 0.2


@contextlib.contextmanager
def locked(path: Path, advice: str) -> Iterator[None]:
    """Waits for an exclusive lock on a file, created if missing, and holds it in the block.

    The system releases the locks of a process that dies.

    Raises:
      UserError: the folder cannot be written or locked; the message ends in the advice.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise unwritable(folder, error, f"; {advice}") from error
    with lock:
        try:
            acquire(lock, f"the process that holds {path}")
        except OSError as error:
            raise UserError(f"{folder} cannot be locked ({error.strerror}); {advice}") from error
        yield


def acquire(lock: IO, holder: str, timeout_seconds: float = math.inf) -> bool:
    """Locks an open file; returns whether the lock was free within the timeout.

    Prints every ten seconds that the process waits for the holder.

    Raises:
      OSError: the file system has no locks.
    """
    deadline = time.monotonic() + timeout_seconds
    next_message = -math.inf
    while not _try_lock(lock):
        now = time.monotonic()
        if now > deadline:
            return False
        if now > next_message:
            next_message = now + _MESSAGE_EVERY_SECONDS
            print(f"waiting for {holder}", flush=True)
        time.sleep(_RETRY_SECONDS)
    return True


def is_at(lock: IO, path: Path) -> bool:
    """Returns whether an open file is the one at a path: another process may have removed it."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(lock: IO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
