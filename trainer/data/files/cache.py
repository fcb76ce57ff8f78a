"""Keeps what was read from a user's files in caches, made once by one of several processes."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainer.errors import unwritable
from trainer.storage import locks, paths

ADVICE = "data.cache_dir=DIR keeps the cache elsewhere"
_Cache = TypeVar("_Cache")


def path_of(folder: Path, source: Path, *, content: str, settings: str, cache_dir: str) -> Path:
    """Returns the path of a cache, SOURCE-CONTENT-SETTINGS, in `folder` or in `cache_dir`.

    The source is a file in the folder's parent, or that parent, which may be moved with its caches.
    Caches of the same source and of other content are out of date.
    """
    parent = paths.path_of(cache_dir) if cache_dir else folder
    name = str(source.absolute()) if cache_dir else str(source.relative_to(folder.parent))
    first, second, last = (
        hashlib.sha256(text.encode()).hexdigest() for text in (name, content, settings)
    )
    return parent / f"{first[:12]}-{second[:24]}-{last[:12]}"


def open_or_make(
    path: Path, open_cache: Callable[[], _Cache | None], make: Callable[[], None]
) -> _Cache:
    """Opens a cache; makes it before, under a lock, if there is none, and removes outdated ones.

    `open_cache` returns None unless the cache is whole.

    Raises:
      UserError: the folder cannot be written; or as `make`.
      StorageError: the disk is full.
    """
    found = open_cache()
    if found is None:
        with locks.locked(path.parent / ".lock", ADVICE):
            found = open_cache()
            if found is None:
                _make(path, make)
                found = open_cache()
    assert found is not None, f"{path} is not what was written there"
    return found


def _make(path: Path, make: Callable[[], None]) -> None:
    try:
        make()
        source, content, _ = path.name.split("-")
        for other in path.parent.glob(f"{source}-*"):
            if not other.name.startswith(f"{source}-{content}-"):
                remove(other)
        for unfinished in path.parent.glob(f".{source}-*"):  # of a process that died
            remove(unfinished)
    except OSError as error:
        raise unwritable(path.parent, error, f"; {ADVICE}") from error


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
