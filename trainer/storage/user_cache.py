"""Keeps arrays that take long to compute in the user's cache folder, for later processes."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from trainer.storage import atomic

Arrays: TypeAlias = Mapping[str, np.ndarray]

_MAX_BYTES = 2**30  # of the folder; the files read longest ago go first
_DIGEST_BYTES = hashlib.sha256().digest_size


def folder() -> Path | None:
    """Returns autoencoder-trainer in XDG_CACHE_HOME or ~/.cache; None for a user without a home."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        caches = caches if caches.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return caches / "autoencoder-trainer"


def load_or_compute(
    key: Sequence[object],
    compute: Callable[[], Arrays],
    is_enough: Callable[[Arrays], bool] = lambda _: True,
) -> Arrays:
    """Returns the arrays kept under a key if they are enough, else computes and keeps them.

    The key names everything that the arrays depend on. A file that is missing or damaged is
    computed again; a folder that cannot be written keeps nothing.
    """
    parent = folder()
    if parent is None:
        return compute()
    path = parent / f"{hashlib.sha256(repr(key).encode()).hexdigest()}.arrays"
    arrays = _read(path)
    if arrays is None or not is_enough(arrays):
        arrays = compute()
        with contextlib.suppress(OSError):
            _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    """Returns the arrays of a file, or None unless it is what was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, packed = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if digest != hashlib.sha256(packed).digest():
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return dict(arrays)


def _write(path: Path, arrays: Arrays) -> None:
    """Writes a file whole or not at all, and deletes the oldest files beyond the limit."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    content = packed.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, hashlib.sha256(content).digest() + content, synced=False)
    files = sorted(path.parent.glob(f"*{path.suffix}"), key=lambda file: -file.stat().st_mtime)
    total_bytes = 0
    for file in files:
        total_bytes += file.stat().st_size
        if total_bytes > _MAX_BYTES:
            file.unlink()
