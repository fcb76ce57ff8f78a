"""Refuses TensorFlow in a fork of a process that has used it, where its first operation hangs."""

import os

from trainer.distribution import private_api
from trainer.errors import require

_fork_hangs = False  # TensorFlow's threads are not copied to a fork


def _note_fork() -> None:
    global _fork_hangs
    _fork_hangs = private_api.runtime_has_begun()


os.register_at_fork(after_in_child=_note_fork)


def require_no_fork() -> None:
    """Raises UserError in a process in which TensorFlow would hang."""
    require(
        not _fork_hangs,
        "TensorFlow cannot be used in a fork of a process that has used it; start the process with "
        "multiprocessing.get_context('spawn'), or with joblib's backend 'loky'",
    )
