"""Writes blocks of rows as arrays, tables or images, whole or not at all."""

import contextlib
import csv
import io
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from trainer.data.files import numpy_files
from trainer.errors import UserError, is_utf8, require, unwritable
from trainer.monitoring import figures
from trainer.storage import atomic, paths

_ROW_GROUP_BYTES = 32 * 2**20  # of a Parquet file
_COPIED_ROWS = 2**16  # at a time, when longer text needs a wider type
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
# The columns of a table, by the arrays' names; other arrays keep theirs.
_SINGULAR = {
    "codes": "code", "vectors": "vector", "labels": "label", "files": "file", "errors": "error",
    "pca_errors": "pca_error", "distances": "distance", "squared_errors": "squared_error",
}  # fmt: skip
_NUMBER_DIGITS = 8  # in the names of images without file names

Columns: TypeAlias = Mapping[str, np.ndarray]  # [B, ...] by name
_NO_IDS: Columns = MappingProxyType({})


class Write(Protocol):
    """Writes a block of rows."""

    def __call__(self, columns: Columns, ids: Columns = _NO_IDS) -> None:
        """Appends columns, of which the examples or codes are the first, and the user's ids."""


@contextlib.contextmanager
def create(output: str, feature_names: Sequence[str] = ()) -> Iterator[Write]:
    """Yields a function that writes columns to a temporary sibling, which replaces the output.

    An .npz file keeps the names of the columns, and the feature names. A table begins with the ids;
    the others have the names of `_SINGULAR`; of several numbers a row, vectors have the feature
    names, squared errors the same after squared_error_, and others are numbered, as code_0. An .npy
    file and a folder of images hold only the first column; the images are named by the column
    `files`.

    Raises:
      UserError: the output cannot be written, or two images or columns would have the same name.
      StorageError: the disk is full; an existing output is unchanged.
    """
    path = paths.path_of(output)
    try:
        with atomic.temporary_sibling(path) as folder:
            tmp = folder / path.name
            with _WRITERS[paths.suffix(output)](tmp, feature_names) as write:
                yield write
            atomic.move_into_place(tmp, path, folder / "backup")
    except OSError as error:
        raise unwritable(f"output={output!r}", error) from error


class _NpyWriter:
    """Appends rows to an .npy file whose final number of rows is unknown.

    NumPy's header has room for any number. The file is not mapped into memory: on a full disk,
    writing to a map ends the process by SIGBUS, whereas writing to a file raises OSError.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("w+b")
        self._count = 0
        self._row_shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)

    def append(self, rows: np.ndarray) -> None:
        """Adds rows [B, ...], whose text may be longer than in the rows before."""
        if self._count == 0:
            self._row_shape, self._dtype = rows.shape[1:], rows.dtype
            self._write_header()
        elif rows.dtype.kind == "U" and rows.dtype.itemsize > self._dtype.itemsize:
            self._widen(rows.dtype)
        self._file.write(rows.astype(self._dtype).tobytes())
        self._count += len(rows)

    def close(self) -> None:
        """Writes the number of rows into the header."""
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        self._file.seek(0)
        numpy_files.write_header(self._file, self._dtype, (self._count, *self._row_shape))

    def _widen(self, dtype: np.dtype) -> None:
        """Rewrites the rows of text in a wider type."""
        self.close()
        narrow = np.load(self.path, mmap_mode="r", allow_pickle=False)
        self.path.unlink()  # the map keeps its content
        self._file, self._count = self.path.open("w+b"), 0
        for start in range(0, len(narrow), _COPIED_ROWS):
            self.append(narrow[start : start + _COPIED_ROWS].astype(dtype))


@contextlib.contextmanager
def _npy(path: Path, feature_names: Sequence[str]) -> Iterator[Write]:
    del feature_names  # one array has no room for them
    with contextlib.closing(_NpyWriter(path)) as array:

        def write(columns: Columns, ids: Columns = _NO_IDS) -> None:
            del ids
            array.append(next(iter(columns.values())))

        yield write


@contextlib.contextmanager
def _npz(path: Path, feature_names: Sequence[str]) -> Iterator[Write]:
    """Writes each array to its own file, and packs the files into one in the end."""
    arrays: dict[str, _NpyWriter] = {}
    with contextlib.ExitStack() as stack:

        def write(columns: Columns, ids: Columns = _NO_IDS) -> None:
            _require_unique([*ids, *columns])
            for name, rows in {**columns, **ids}.items():
                if name not in arrays:
                    array = _NpyWriter(path.with_name(f"{len(arrays)}.npy"))
                    arrays[name] = stack.enter_context(contextlib.closing(array))
                arrays[name].append(rows)

        yield write
        if "vectors" in arrays and feature_names:
            write({"feature_names": np.array(feature_names)})
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            archive.write(array.path, f"{name}.npy")
            array.path.unlink()


@contextlib.contextmanager
def _table(path: Path, feature_names: Sequence[str]) -> Iterator[Write]:
    """Collects blocks until they fill a row group."""
    open_writer = _open_parquet if path.suffix.lower() == ".parquet" else _open_csv
    held: list[pa.RecordBatch] = []
    with contextlib.ExitStack() as stack:
        writer: Any = None

        def flush() -> None:
            nonlocal writer
            table = pa.Table.from_batches(held)
            writer = writer or stack.enter_context(open_writer(path, table.schema))
            writer.write(table)
            held.clear()

        def write(columns: Columns, ids: Columns = _NO_IDS) -> None:
            held.append(_record_batch(columns, ids, feature_names))
            if len(held) * held[0].nbytes >= _ROW_GROUP_BYTES:
                flush()

        yield write
        if held:
            flush()


def _record_batch(columns: Columns, ids: Columns, feature_names: Sequence[str]) -> pa.RecordBatch:
    names, arrays = [*ids], [_column(column) for column in ids.values()]
    for name, rows in columns.items():
        singular = _SINGULAR.get(name, name)
        if rows.ndim == 1:
            names.append(singular)
            arrays.append(_column(rows))
        else:
            of_features = name in ("vectors", "squared_errors")
            named = of_features and len(feature_names) == rows.shape[1]
            numbered: Sequence[Any] = feature_names if named else range(rows.shape[1])
            bare = named and name == "vectors"
            names += [str(each) if bare else f"{singular}_{each}" for each in numbered]
            arrays += map(pa.array, rows.T)
    _require_unique(names)
    return pa.RecordBatch.from_arrays(arrays, names)


def _require_unique(names: Iterable[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    require(
        twice is None,
        f"two columns of the output would have the name {twice!r}; rename the column of the input",
    )


def _column(rows: np.ndarray) -> pa.Array:
    try:
        return pa.array(rows)
    except UnicodeError as error:
        broken = next(text for text in map(str, rows) if not is_utf8(text))
        raise UserError(
            f"{broken!r} is not UTF-8, as the text of a table must be; .npz files take it"
        ) from error


def _open_parquet(path: Path, schema: pa.Schema) -> pyarrow.parquet.ParquetWriter:
    return pyarrow.parquet.ParquetWriter(path, schema)


@contextlib.contextmanager
def _open_csv(path: Path, schema: pa.Schema) -> Iterator[pyarrow.csv.CSVWriter]:
    delimiter = _SEPARATORS[path.suffix.lower()]
    options = pyarrow.csv.WriteOptions(include_header=False, delimiter=delimiter)
    header = io.StringIO()
    csv.writer(header, delimiter=delimiter, lineterminator="\n").writerow(schema.names)
    with path.open("wb") as file:
        file.write(header.getvalue().encode())  # pyarrow would quote every name
        with pyarrow.csv.CSVWriter(file, schema, write_options=options) as writer:
            yield writer


@contextlib.contextmanager
def _images(path: Path, feature_names: Sequence[str]) -> Iterator[Write]:
    """Writes each image as a PNG, named by its file or its number."""
    del feature_names
    path.mkdir()
    names: set[str] = set()
    with ThreadPoolExecutor() as pool:

        def write(columns: Columns, ids: Columns = _NO_IDS) -> None:
            del ids
            pixels = np.round(255 * next(iter(columns.values()))).astype(np.uint8)
            numbers = range(len(names), len(names) + len(pixels))
            files = columns.get("files", [f"{number:0{_NUMBER_DIGITS}d}" for number in numbers])
            targets = []
            for file in map(str, files):
                name = _png_name(file)
                require(name not in names, f"two files would become {name}; {file!r} is the second")
                names.add(name)
                targets.append(path / name)
                targets[-1].parent.mkdir(parents=True, exist_ok=True)
            list(pool.map(Path.write_bytes, targets, pool.map(figures.png, pixels)))

        yield write


def _png_name(file: str) -> str:
    """Returns the name of the PNG for a file, subfolders included.

    Raises:
      UserError: the PNG would be outside the output, or the name is not allowed for files.
    """
    path = PurePosixPath(file)
    is_inside = path.name != "" and not path.is_absolute() and ".." not in path.parts
    require(
        is_inside and _is_encodable(file), f"{file!r} cannot be the name of an image in a folder"
    )
    return path.with_suffix(".png").as_posix()


def _is_encodable(file: str) -> bool:
    """Returns whether the file system allows the name."""
    try:
        return b"\0" not in os.fsencode(file)
    except UnicodeEncodeError:
        return False


_WRITERS = dict.fromkeys(paths.OUTPUT_TABLE_SUFFIXES, _table) | {
    ".npy": _npy,
    ".npz": _npz,
    paths.FOLDER: _images,
}
