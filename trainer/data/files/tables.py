"""Reads a user's tables of numbers, CSV or Parquet, a block of rows at a time.

Messages count rows from 1, without the header and blank lines. pyarrow's dataset scanner would
decode a whole row group of Parquet at once, with twice the memory of the readers here, or more.
"""

import contextlib
import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from trainer.data.memory import GIB
from trainer.errors import UserError, in_one_line, require
from trainer.storage import paths

SUFFIXES = paths.TABLE_SUFFIXES
SEPARATORS = {".csv": ",", ".tsv": "\t"}
MAX_TEXT_BYTES = 4096  # of a label or a file name
_BLOCK_BYTES = 2**22  # of a block of rows
_PARQUET_ROWS = 16_384  # of a block, at most
_PARQUET_BUFFER_BYTES = 2**20  # a column


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds the rows of one file."""

    rows: np.ndarray  # float32 [N, D], NaN where a number is missing
    labels: np.ndarray | None  # int64 [N]


@dataclasses.dataclass(frozen=True)
class Tables:
    """Holds one table, or one to train and one to test with the same columns."""

    tables: tuple[Table, ...]
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]  # by label, if the labels are words


@dataclasses.dataclass(frozen=True)
class OpenTable:
    """Describes a table by its columns; `batches` reads the rows."""

    names: tuple[str, ...]
    types: tuple[pa.DataType, ...]  # text for each column of CSV
    count: int | None  # of rows; None: not known before the end
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]  # of the columns with these names


def split_names(text: str) -> list[str]:
    """Splits a text into column names at its commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read(
    paths: Sequence[Path],
    *,
    label_column: str = "",
    drop_columns: Sequence[str] = (),
    keep_missing: bool = False,
    allowed_bytes: float = math.inf,
) -> Tables:
    """Reads tables whose columns are numbers, except for the labels and the dropped columns.

    Labels are integers, or words, whose sorted order in the first table numbers them from 0. The
    other tables may have the columns in another order. Missing numbers become NaN with
    `keep_missing`.

    Raises:
      UserError: a file cannot be read or has other columns; a number is missing, infinite or too
        large for float32; the rows take more than the allowed bytes.
    """
    feature_names: tuple[str, ...] = ()
    all_rows, all_labels = [], []
    for path in paths:
        table = open_table(path)
        found = _feature_names(path, table.names, label_column, drop_columns)
        feature_names = feature_names or found
        _require_same(path, found, paths[0], feature_names)
        rows, label_chunks, size = [], [], 0
        extra = [label_column] if label_column else []
        for block, extra_columns in _blocks(path, table, feature_names, extra, keep_missing):
            size += block.nbytes
            require(
                size <= allowed_bytes,
                f"{path} takes more than the {allowed_bytes / GIB:.1f} GiB of memory",
            )
            rows.append(block)
            label_chunks += extra_columns
        all_rows.append(np.concatenate(rows))
        all_labels.append(_Labels.of(path, label_chunks, label_column) if label_column else None)
    first = all_labels[0]
    class_names = tuple(sorted(first.words)) if first else ()
    tables = [
        Table(rows, None if labels is None else labels.numbers(class_names, paths[0]))
        for rows, labels in zip(all_rows, all_labels, strict=True)
    ]
    require(
        tables[0].labels is None or len(np.unique(tables[0].labels)) > 1,
        f"the labels of {paths[0]}, its column {label_column!r}, are all the same; "
        "there is nothing to tell apart",
    )
    return Tables(tuple(tables), feature_names, class_names)


def blocks(
    path: Path,
    feature_names: Sequence[str],
    *,
    extra: Sequence[str] = (),
    keep_missing: bool = False,
) -> Iterator[tuple[np.ndarray, list[pa.Array]]]:
    """Yields float32 rows [n, D] of the named columns, in the order of the names.

    Each block comes with the same rows of the `extra` columns, in the file's types; text for CSV.

    Raises:
      UserError: a column is missing, or as `read`.
    """
    table = open_table(path)
    for name in (*feature_names, *extra):
        _require_column(path, name, table.names)
    yield from _blocks(path, table, feature_names, extra, keep_missing)


def open_table(path: Path) -> OpenTable:
    """Reads the columns' names and types.

    Raises:
      UserError: the file cannot be read, or its columns do not have different names.
    """
    suffix = path.suffix.lower()
    require(suffix in SUFFIXES, f"{path} is no table; its name must end in {', '.join(SUFFIXES)}")
    with _readable(path):
        table = _open_parquet(path) if suffix == ".parquet" else _open_csv(path)
    for number, name in enumerate(table.names, start=1):
        require(name.strip() != "", f"column {number} of {path} has no name in the header")
        require(table.names.count(name) == 1, f"two columns of {path} have the same name {name!r}")
    return table


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a table ({in_one_line(error)})") from error
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else in_one_line(error)
        raise UserError(f"{path} cannot be read: {why}") from error


def _open_csv(path: Path) -> OpenTable:
    """Opens a text file; reads every column as text, since inferred types could differ by block."""
    separator = SEPARATORS[path.suffix.lower()]
    parsing = pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    reading = pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES)
    with pyarrow.csv.open_csv(path, reading, parsing) as reader:
        names = tuple(reader.schema.names)
    numbered = tuple(map(str, range(len(names))))  # as pandas calls columns without names
    require(
        names == numbered or not all(map(_is_number, names)),
        f"{path} has no header: its first row is {', '.join(names[:3])}; it must name the columns",
    )

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        converting = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=list(columns),
            strings_can_be_null=True,
        )
        with pyarrow.csv.open_csv(path, reading, parsing, converting) as reader:
            yield from reader

    return OpenTable(names, (pa.string(),) * len(names), None, batches)


def _open_parquet(path: Path) -> OpenTable:
    with pyarrow.parquet.ParquetFile(path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
    # Text stays dictionary-encoded: a few bytes of the file may be a long text in every row.
    texts = [field.name for field in schema if _is_text(field.type)]

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rows = max(1, min(_PARQUET_ROWS, _BLOCK_BYTES // (8 * len(columns))))
        # With pre_buffer, row groups stay in memory until the file is closed.
        buffering = {"pre_buffer": False, "buffer_size": _PARQUET_BUFFER_BYTES}
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts, **buffering) as file:
            yield from file.iter_batches(rows, columns=list(columns))

    return OpenTable(tuple(schema.names), tuple(schema.types), count, batches)


def _feature_names(
    path: Path, names: Sequence[str], label_column: str, drop_columns: Sequence[str]
) -> tuple[str, ...]:
    others = (*([label_column] if label_column else []), *drop_columns)
    for name in others:
        _require_column(path, name, names)
    features = tuple(name for name in names if name not in others)
    require(len(features) > 0, f"{path} has no column but {', '.join(map(repr, others))}")
    return features


def _require_column(path: Path, name: str, names: Sequence[str]) -> None:
    close = difflib.get_close_matches(name, names, n=1)
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    hint = f"did you mean {close[0]!r}?" if close else f"its columns are {shown}"
    require(name in names, f"{path} has no column {name!r}; {hint}")


def _require_same(
    path: Path, found: tuple[str, ...], first: Path, feature_names: tuple[str, ...]
) -> None:
    differing = sorted(set(found) ^ set(feature_names))
    require(
        not differing,
        f"{path} has {len(found)} columns of numbers, {first} has {len(feature_names)}; "
        f"only one of them has {differing[0] if differing else ''!r}",
    )


def _blocks(
    path: Path,
    table: OpenTable,
    feature_names: Sequence[str],
    extra: Sequence[str],
    keep_missing: bool,
) -> Iterator[tuple[np.ndarray, list[pa.Array]]]:
    """Yields float32 rows [n, D] and their extra columns."""
    types = dict(zip(table.names, table.types, strict=True))
    for name in feature_names:  # before any row is read: nested values have no bounds
        _require_number_type(path, name, types[name])
    for name in extra:
        require(
            not pa.types.is_nested(types[name]),
            f"the column {name!r} of {path} is of type {types[name]}; labels are numbers or text",
        )
    first_row = 0
    with _readable(path):
        for batch in table.batches((*feature_names, *extra)):
            if len(batch) == 0:
                continue
            rows = np.empty((len(batch), len(feature_names)), np.float32)
            for column, name in enumerate(feature_names):
                rows[:, column] = _float32(path, name, batch.column(name), first_row)
            if not keep_missing:
                _require_no_missing(path, rows, feature_names, first_row)
            yield rows, [_labels(path, name, batch.column(name), first_row) for name in extra]
            first_row += len(batch)
    require(first_row > 0, f"{path} has no row")


def _float32(path: Path, name: str, column: pa.Array, first_row: int) -> np.ndarray:
    """Returns the numbers of a column [n], NaN where one is missing."""
    if _is_text(column.type):
        values = _parse(path, name, column, first_row)
    else:
        if not pa.types.is_floating(column.type):
            column = column.cast(pa.float64(), safe=False)
        values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    with np.errstate(over="ignore"):  # numbers too large for float32 become infinite
        converted = values.astype(np.float32)
    infinite = np.flatnonzero(np.isinf(converted))
    if len(infinite):
        raise UserError(
            f"{path} holds {values[infinite[0]]:g} in {_cell(first_row + infinite[0], name)}; "
            "only finite numbers of float32 are allowed"
        )
    return converted


def _require_number_type(path: Path, name: str, kind: pa.DataType) -> None:
    require(
        path.suffix.lower() in SEPARATORS  # text is parsed later
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind),
        f"the column {name!r} of {path} is of type {kind}, not of numbers; "
        "in a training, data.drop_columns leaves it out",
    )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _labels(path: Path, name: str, column: pa.Array, first_row: int) -> pa.Array:
    """Returns a column of labels; checks that none is missing and that no text is too long."""
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise UserError(f"{path} holds nothing in {_cell(first_row + row, name)}")
    is_encoded = isinstance(column, pa.DictionaryArray)
    texts = column.dictionary if is_encoded else column
    if _is_text(texts.type) and len(texts):
        longest = pc.max(pc.binary_length(texts)).as_py()
        require(
            longest <= MAX_TEXT_BYTES,
            f"the column {name!r} of {path} holds a text of {longest:,} bytes; at most "
            f"{MAX_TEXT_BYTES:,} are allowed",
        )
    return column.dictionary_decode() if is_encoded else column


def _parse(path: Path, name: str, column: pa.Array, first_row: int) -> np.ndarray:
    """Parses text to float64 [n]."""
    try:
        return pc.utf8_trim_whitespace(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # Python reads some numbers that Arrow does not, such as +1
        values = np.full(len(column), np.nan)
        for row, text in enumerate(column.to_pylist()):
            if text is not None:
                require(
                    _is_number(text),
                    f"{path} holds {text!r} in {_cell(first_row + row, name)}, which is no "
                    "number; in a training, data.label_column takes a column as the labels, and "
                    "data.drop_columns leaves one out",
                )
                values[row] = float(text)
        return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _require_no_missing(path: Path, rows: np.ndarray, names: Sequence[str], first_row: int) -> None:
    missing = np.argwhere(np.isnan(rows))
    if len(missing):
        row, column = missing[0].tolist()
        raise UserError(
            f"{path} has no number in {_cell(first_row + row, names[column])}; "
            "in a training, data.impute=mean or median fills in missing numbers"
        )


def _cell(row: int, column: str) -> str:
    """Describes a cell by its row, counted from 0, and its column."""
    return f"row {row + 1:,}, column {column!r}"


@dataclasses.dataclass(frozen=True)
class _Labels:
    """Holds the labels of a table: integers, or indices of words."""

    path: Path
    column: str
    values: np.ndarray  # int64 [N]
    words: tuple[str, ...]  # (): the labels are integers

    @classmethod
    def of(cls, path: Path, chunks: Sequence[pa.Array], column: str) -> "_Labels":
        encoded = pa.chunked_array(chunks).combine_chunks().dictionary_encode()
        found = encoded.dictionary.to_pylist()
        indices = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        if not pa.types.is_floating(encoded.dictionary.type):
            with contextlib.suppress(ValueError, OverflowError, TypeError):
                integers = np.array([int(label) for label in found], np.int64)
                return cls(path, column, integers[indices], ())
        require(
            all(isinstance(label, str) for label in found) and not all(map(_is_number, found)),
            f"the labels of {path}, its column {column!r}, must be integers or words; "
            f"{found[0]!r} is neither",
        )
        return cls(path, column, indices, tuple(found))

    def numbers(self, class_names: tuple[str, ...], first: Path) -> np.ndarray:
        """Returns int64 [N]: the integers, or each word's index among the class names."""
        require(
            bool(self.words) == bool(class_names),
            f"the labels of {self.path}, its column {self.column!r}, must be of the same kind as "
            f"those of {first}: integers, or words",
        )
        if not class_names:
            return self.values
        unknown = sorted(set(self.words) - set(class_names))
        require(
            not unknown,
            f"{self.path} has the label {unknown[0] if unknown else ''!r}, which {first} has not",
        )
        return np.array([class_names.index(word) for word in self.words], np.int64)[self.values]
