"""Files and folders, written whole or not at all, and what is wrong with them when read."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.errors import writing

# What reading JSON raises that is damaged, or is not what was written.
JSON_ERRORS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def write_json(path: Path, content: Mapping[str, Any], *, synced: bool = True) -> None:
    """Writes a JSON file as `write_bytes`."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), synced=synced)


def write_text(path: Path, text: str) -> None:
    """Writes a file of text as `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, *, synced: bool = True) -> None:
    """Writes a file whole or not at all; one that is not `synced`, unless the power is lost."""
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yields a temporary folder next to `path`.

    Parent folders it had to make are removed if the body fails.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as aside:
            yield Path(aside)
    except BaseException:
        with contextlib.suppress(OSError):  # another may have put something there
            for folder in made:
                folder.rmdir()
        raise


def put(aside: Path, path: Path, before: Path) -> None:
    """Moves a file or folder to its place; a folder that is there, to `before`.

    Where that fails, what was there still is: a folder cannot be replaced in one move.
    """
    if not path.is_dir():
        aside.replace(path)
        return
    path.rename(before)
    try:
        aside.rename(path)
    except BaseException:
        before.rename(path)
        raise


@contextlib.contextmanager
def replacing(workdir: Path) -> Iterator[Path]:
    """Gives a folder for files and folders that in the end take the places of the workdir's.

    JSON comes last, since it describes the others.

    Raises:
      StorageError: one of them cannot be written, and what was there in its place still is; those
        placed before it stay, and none is half written.
    """
    with (
        writing(f"what is to be kept in {workdir}"),
        tempfile.TemporaryDirectory(prefix=".", dir=workdir) as folder,
    ):
        aside = Path(folder, "new")
        aside.mkdir()
        yield aside
        for made in sorted(aside.iterdir(), key=lambda path: path.suffix == ".json"):
            put(made, workdir / made.name, Path(folder, made.name))
