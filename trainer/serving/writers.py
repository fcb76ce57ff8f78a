"""What a stream of examples becomes on disk: arrays, tables and pictures, whole or not at all."""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from trainer.data.files import tables
from trainer.errors import UserError, is_utf8, require
from trainer.monitoring import figures
from trainer.storage import atomic, paths

_ROW_GROUP_BYTES = 32 * 2**20  # of a Parquet file
_COPIED_ROWS = 2**16  # at a time, where text turns out to be longer
_NUMBER_WIDTH = 8  # digits in the name of a picture that has none

Columns: TypeAlias = Mapping[str, np.ndarray]  # [B, ...] by names in the plural
Write: TypeAlias = Callable[[Columns], None]  # the examples themselves are the first column


@contextlib.contextmanager
def create(output: str) -> Iterator[Write]:
    """Gives what writes columns beside the output, and in the end puts that in its place.

    Arrays keep the columns' names, tables have them in the singular, with a number behind where a
    column has several numbers; .npy files hold the examples alone, and so do pictures, which are
    called by their `files`.

    Raises:
      UserError: it cannot be written, or two pictures would be one.
    """
    path = paths.path_of(output)
    try:
        with atomic.beside(path) as folder:
            aside = folder / path.name
            with _WRITERS[paths.suffix(output)](aside) as write:
                yield write
            atomic.put(aside, path, folder / "before")
    except OSError as error:
        raise UserError(
            f"output={output!r} cannot be written: {error.strerror or error}"
        ) from error


class _GrowingArray:
    """An .npy file that rows are added to; its header has room for any number of them."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("w+b")
        self._count = 0
        self._row_shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)

    def append(self, rows: np.ndarray) -> None:
        """Adds rows [B, ...]; text may be longer than before."""
        if self._count == 0:
            self._row_shape, self._dtype = rows.shape[1:], rows.dtype
            self._write_header()
        elif rows.dtype.kind == "U" and rows.dtype.itemsize > self._dtype.itemsize:
            self._widen(rows.dtype)
        self._file.write(rows.astype(self._dtype).tobytes())
        self._count += len(rows)

    def close(self) -> None:
        """Writes down how many there are."""
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        self._file.seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def _widen(self, dtype: np.dtype) -> None:
        self.close()
        narrow = self.path.rename(self.path.with_suffix(".narrow"))
        with narrow.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            before, count = self._dtype, self._count
            self._file = self.path.open("w+b")
            self._count, self._dtype = 0, dtype
            for start in range(0, count, _COPIED_ROWS):
                some = min(_COPIED_ROWS, count - start)
                rows = np.frombuffer(file.read(some * before.itemsize), before)
                self.append(rows.astype(dtype))
        narrow.unlink()


@contextlib.contextmanager
def _npy(path: Path) -> Iterator[Write]:
    with contextlib.closing(_GrowingArray(path)) as array:
        yield lambda columns: array.append(next(iter(columns.values())))


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[Write]:
    """Each array grows in a file of its own before they become members of one."""
    arrays: dict[str, _GrowingArray] = {}
    with contextlib.ExitStack() as opened:

        def write(columns: Columns) -> None:
            for name, rows in columns.items():
                if name not in arrays:
                    array = _GrowingArray(path.with_name(f"{name}.npy"))
                    arrays[name] = opened.enter_context(contextlib.closing(array))
                arrays[name].append(rows)

        yield write
    with zipfile.ZipFile(path, "w") as archive:
        for array in arrays.values():
            archive.write(array.path, array.path.name)
            array.path.unlink()


@contextlib.contextmanager
def _table(path: Path) -> Iterator[Write]:
    """Rows are held back until they are worth a row group."""
    open_writer = _open_parquet if path.suffix.lower() == ".parquet" else _open_csv
    held: list[pa.RecordBatch] = []
    with contextlib.ExitStack() as opened:
        writer: Any = None

        def flush() -> None:
            nonlocal writer
            table = pa.Table.from_batches(held)
            writer = writer or opened.enter_context(open_writer(path, table.schema))
            writer.write(table)
            held.clear()

        def write(columns: Columns) -> None:
            held.append(_record_batch(columns))
            if len(held) * held[0].nbytes >= _ROW_GROUP_BYTES:
                flush()

        yield write
        if held:
            flush()


def _record_batch(columns: Columns) -> pa.RecordBatch:
    arrays = {}
    for name, rows in columns.items():
        singular = name.removesuffix("s")
        if rows.ndim == 1:
            arrays[singular] = _column(rows)
        else:
            arrays |= {f"{singular}_{k}": pa.array(rows[:, k]) for k in range(rows.shape[1])}
    return pa.RecordBatch.from_pydict(arrays)


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
    delimiter = tables.SEPARATORS[path.suffix.lower()]
    options = pyarrow.csv.WriteOptions(include_header=False, delimiter=delimiter)
    with path.open("wb") as file:
        file.write(delimiter.join(schema.names).encode() + b"\n")  # pyarrow would quote each
        with pyarrow.csv.CSVWriter(file, schema, write_options=options) as writer:
            yield writer


@contextlib.contextmanager
def _pictures(path: Path) -> Iterator[Write]:
    """A PNG of each image, by its own name or its number."""
    path.mkdir()
    names: set[str] = set()
    with ThreadPoolExecutor() as pool:

        def write(columns: Columns) -> None:
            images = np.round(255 * next(iter(columns.values()))).astype(np.uint8)
            numbers = range(len(names), len(names) + len(images))
            named = columns.get("files", [f"{number:0{_NUMBER_WIDTH}d}" for number in numbers])
            targets = []
            for file in map(str, named):
                name = _picture_name(file)
                require(name not in names, f"two files would become {name}; {file!r} is the second")
                names.add(name)
                targets.append(path / name)
                targets[-1].parent.mkdir(parents=True, exist_ok=True)
            list(pool.map(Path.write_bytes, targets, pool.map(figures.png, images)))

        yield write


def _picture_name(file: str) -> str:
    """What the picture that is made of a file is called; its folders are kept."""
    path = PurePosixPath(file)
    require(
        path.name != ""
        and not path.is_absolute()
        and ".." not in path.parts
        and _is_encodable(file),
        f"{file!r} cannot be the name of a picture in a folder",
    )
    return path.with_suffix(".png").as_posix()


def _is_encodable(file: str) -> bool:
    """Whether the file system can have such a name."""
    try:
        return b"\0" not in os.fsencode(file)
    except UnicodeEncodeError:
        return False


_WRITERS = dict.fromkeys(tables.SUFFIXES, _table) | {
    ".npy": _npy,
    ".npz": _npz,
    paths.FOLDER: _pictures,
}
