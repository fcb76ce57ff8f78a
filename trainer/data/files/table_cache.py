"""Caches the rows of a table that does not fit in memory, to be read in any order.

Rows in random order cannot be read from Parquet or CSV: each would need its whole row group
decoded, or all text before it parsed. So float32 rows are written once, and mapped into memory.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from trainer.data.files import cache, numpy_files
from trainer.storage import atomic, paths

FOLDER = ".tables"  # beside the table, unless data.cache_dir names another
_VERSION = 1  # raise it when a table of the same settings gives other rows
_ROWS, _EXTRA, _ABOUT = "rows.npy", "extra.arrow", "about.json"


class Target(Protocol):
    """Takes the blocks of a table's rows."""

    def add(self, rows: np.ndarray, extra: Sequence[pa.Array]) -> None:
        """Takes float32 rows [n, columns], and their other columns [n]."""

    def parts(self) -> list[np.ndarray]:
        """Ends the rows, and returns them in parts [n, columns]."""


_Target = TypeVar("_Target", bound=Target)
# Reads a table into the last of the targets that a function makes, and describes what it read.
Scan = Callable[[Callable[[], _Target]], tuple[_Target, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class CachedTable:
    """Holds what a cache holds; rows and columns stay in their files."""

    rows: np.ndarray  # float32 [N, columns], a read-only map
    extra: list[pa.ChunkedArray]  # [N], mapped as well
    about: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "CachedTable | None":
        """Maps the files into memory; returns None unless they are whole."""
        try:
            rows = np.asarray(np.load(path / _ROWS, mmap_mode="r", allow_pickle=False))
            about = json.loads((path / _ABOUT).read_text())
            extra = []
            if (path / _EXTRA).exists():
                extra = pa.ipc.open_file(pa.memory_map(str(path / _EXTRA))).read_all().columns
        except (OSError, ValueError, EOFError, pa.ArrowException):
            return None
        is_whole = all(len(column) == len(rows) for column in extra)
        return cls(rows, extra, about) if is_whole else None


def path_of(table: Path, settings: Any, cache_dir: str) -> Path:
    """Returns the folder for the cache of a file, as it is now, read with settings for JSON."""
    found = table.stat()
    return cache.path_of(
        table.parent / FOLDER,
        table,
        content=f"{found.st_size} {found.st_mtime_ns}",
        settings=json.dumps([_VERSION, settings]),
        cache_dir=cache_dir,
    )


def open_or_make(path: Path, scan: Scan, *, table: Path, size: int | None) -> CachedTable:
    """Opens the cache of a table, or makes it of what a scan of the table reads.

    Args:
      path: its folder.
      scan: reads the table.
      table: its file.
      size: bytes of its rows, if known.

    Raises:
      UserError: the folder cannot be written; or as the scan.
      StorageError: the disk has too little space.
    """

    def make() -> None:
        paths.require_disk_space(f"a cache of {table}", path.parent, size or 0, cache.ADVICE)
        print(f"reading {table} once, into {path}", flush=True)
        _write(path, scan)

    return cache.open_or_make(path, lambda: CachedTable.open(path), make)


def _write(path: Path, scan: Scan) -> None:
    """Writes a folder whole or not at all."""
    tmp = path.with_name(f".{path.name}")
    cache.remove(tmp)
    try:
        with contextlib.ExitStack() as files:

            def new_writer() -> _Writer:
                files.close()
                cache.remove(tmp)
                tmp.mkdir()
                return files.enter_context(contextlib.closing(_Writer(tmp)))

            _, about = scan(new_writer)
        atomic.write_json(tmp / _ABOUT, about)
        cache.remove(path)  # which is damaged
        tmp.rename(path)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


class _Writer:
    """Writes blocks of rows to files in a folder."""

    def __init__(self, folder: Path):
        # np.lib.format.open_memmap would end the process by SIGBUS on a full disk.
        self._rows = (folder / _ROWS).open("wb")
        self._extra = contextlib.ExitStack()
        self._arrow: pa.RecordBatchFileWriter | None = None
        self._folder, self._count, self._width = folder, 0, 0

    def add(self, rows: np.ndarray, extra: Sequence[pa.Array]) -> None:
        if self._count == 0:
            self._width = rows.shape[1]
            numpy_files.write_header(self._rows, np.float32, rows.shape)
        self._rows.write(np.ascontiguousarray(rows).data)
        self._count += len(rows)
        if extra:
            batch = pa.record_batch(list(extra), [str(place) for place in range(len(extra))])
            if self._arrow is None:
                file = self._extra.enter_context((self._folder / _EXTRA).open("wb"))
                self._arrow = self._extra.enter_context(pa.ipc.new_file(file, batch.schema))
            self._arrow.write_batch(batch)

    def parts(self) -> list[np.ndarray]:
        self._rows.seek(0)
        numpy_files.write_header(self._rows, np.float32, (self._count, self._width))
        self.close()
        for path in self._folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        return [np.load(self._folder / _ROWS, mmap_mode="r", allow_pickle=False)]

    def close(self) -> None:
        self._rows.close()
        self._extra.close()
