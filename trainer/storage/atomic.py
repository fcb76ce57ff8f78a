"""Writes files and folders whole or not at all."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.errors import writing

# Errors of parsing a JSON file that is damaged or has other content.
JSON_ERRORS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def write_json(path: Path, content: Mapping[str, Any], *, synced: bool = True) -> None:
    """Writes a JSON file as `write_bytes` does."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), synced=synced)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, *, synced: bool = True) -> None:
    """Writes a file whole or not at all; without `synced`, a power loss may leave it damaged."""
    tmp = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with tmp.open("wb") as file:
            file.write(content)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        tmp.replace(path)
    except OSError:
        tmp.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def temporary_sibling(path: Path) -> Iterator[Path]:
    """Yields a temporary folder in the parent of `path`, on the same file system.

    Makes missing parents, and removes them again if the body fails.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as tmp:
            yield Path(tmp)
    except BaseException:
        with contextlib.suppress(OSError):  # another process may use the folder by now
            for folder in made:
                folder.rmdir()
        raise


def move_into_place(tmp: Path, path: Path, backup: Path) -> None:
    """Moves a file or folder to `path`; an existing folder there goes to `backup`.

    A folder cannot be replaced in one move: if the second move fails, the first is undone.
    """
    if not path.is_dir():
        tmp.replace(path)
        return
    path.rename(backup)
    try:
        tmp.rename(path)
    except BaseException:
        backup.rename(path)
        raise


@contextlib.contextmanager
def replacing(workdir: Path) -> Iterator[Path]:
    """Yields a temporary folder whose content replaces files and folders of the workdir at exit.

    JSON files are moved last, since they describe the others.

    Raises:
      StorageError: a file cannot be written. No file is half written; files that were not replaced
        are unchanged.
    """
    with (
        writing(f"a result in {workdir}"),
        tempfile.TemporaryDirectory(prefix=".", dir=workdir) as folder,
    ):
        tmp = Path(folder, "new")
        tmp.mkdir()
        yield tmp
        for made in sorted(tmp.iterdir(), key=lambda path: path.suffix == ".json"):
            move_into_place(made, workdir / made.name, Path(folder, made.name))
