"""A user's tables of numbers, in CSV or Parquet; whatever is wrong with them is told in one line.

Rows are counted from 1, the header and blank lines apart.
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

from trainer.errors import UserError, in_one_line, require
from trainer.storage import paths

SUFFIXES = paths.TABLE_SUFFIXES
SEPARATORS = {".csv": ",", ".tsv": "\t"}
_ROWS = 16_384  # of Parquet, read at a time, at most
_BLOCK_BYTES = 2**22  # likewise, of any table
_BUFFER_BYTES = 2**20  # of each column of a Parquet file
LONGEST_TEXT = 4096  # bytes of a label or a name
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of one file."""

    rows: np.ndarray  # float32 [N, D], NaN where a number is missing
    labels: np.ndarray | None  # int64 [N]


@dataclasses.dataclass(frozen=True)
class Tables:
    """One file, or one to train and one to test, of the same columns."""

    parts: tuple[Table, ...]
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]  # by their numbers, where the labels are words


@dataclasses.dataclass(frozen=True)
class Source:
    """A table that is still to be read."""

    names: tuple[str, ...]  # of its columns
    kinds: tuple[pa.DataType, ...]  # of each; of CSV, text
    count: int | None  # of its rows, where it says so
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]  # of the columns of these names


def read(
    paths: Sequence[Path],
    *,
    label_column: str = "",
    drop_columns: Sequence[str] = (),
    keep_missing: bool = False,
    most_bytes: float = math.inf,
) -> Tables:
    """Reads tables of which every column is of numbers, but for the label's and those dropped.

    Labels are integers, taken as they are, or words, whose numbers count the sorted words of the
    first table from 0. The columns of the others may be in another order. Missing numbers are NaN
    if they are kept.

    Raises:
      UserError: a file cannot be read or is no such table; a number is missing and not to be kept,
        is infinite, or too large for float32; they take more than `most_bytes`.
    """
    features: tuple[str, ...] | None = None
    tables, columns = [], []
    for path in paths:
        source = open_table(path)
        found = _features(path, source.names, label_column, drop_columns)
        features = features or found
        _require_same(path, found, paths[0], features)
        read_rows, read_labels, size = [], [], 0
        beside = [label_column] if label_column else []
        for rows, others in _blocks(path, source, features, beside, keep_missing):
            size += rows.nbytes
            require(
                size <= most_bytes,
                f"{path} holds more than the {most_bytes / _GIB:.1f} GiB of memory",
            )
            read_rows.append(rows)
            read_labels += others
        tables.append(np.concatenate(read_rows))
        columns.append(_Labels.of(path, read_labels, label_column) if label_column else None)
    assert features is not None
    first = columns[0]
    class_names = tuple(sorted(first.words)) if first else ()
    parts = [
        Table(rows, None if column is None else column.numbers(class_names, paths[0]))
        for rows, column in zip(tables, columns, strict=True)
    ]
    labels = parts[0].labels
    require(
        labels is None or len(np.unique(labels)) > 1,
        f"the labels of {paths[0]}, its column {label_column!r}, are all alike; "
        "there is nothing to tell apart",
    )
    return Tables(tuple(parts), features, class_names)


def blocks(
    path: Path,
    feature_names: Sequence[str],
    *,
    beside: Sequence[str] = (),
    keep_missing: bool = False,
) -> Iterator[tuple[np.ndarray, list[pa.Array]]]:
    """The rows [n, D] of the columns of these names, in their order, a block at a time.

    With each comes the block of the columns `beside`, as they are in the file: of CSV, text. Other
    columns are left out.

    Raises:
      UserError: as `read`; a column is missing.
    """
    source = open_table(path)
    for name in (*feature_names, *beside):
        _require_column(path, name, source.names)
    yield from _blocks(path, source, feature_names, beside, keep_missing)


def open_table(path: Path) -> Source:
    """Reads what a table says of itself.

    Raises:
      UserError: it cannot be read, or its columns have no names of their own.
    """
    require(
        path.suffix.lower() in SUFFIXES,
        f"{path} is no table; its name must end in {', '.join(SUFFIXES)}",
    )
    with _readable(path):
        source = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    for number, name in enumerate(source.names, start=1):
        require(name.strip() != "", f"column {number} of {path} has no name in the header")
        require(source.names.count(name) == 1, f"two columns of {path} have the same name {name!r}")
    return source


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a table ({in_one_line(error)})") from error
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else in_one_line(error)
        raise UserError(f"{path} cannot be read: {why}") from error


def _csv(path: Path) -> Source:
    """A file of text, of which each column is read as text: one block cannot tell of the next."""
    separator = SEPARATORS[path.suffix.lower()]
    parsing = pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    reading = pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES)
    with pyarrow.csv.open_csv(path, reading, parsing) as reader:
        names = tuple(reader.schema.names)
    counted = tuple(map(str, range(len(names))))  # as pandas calls columns without names
    require(
        names == counted or not all(map(_is_number, names)),
        f"{path} has no header: its first row is {', '.join(names[:3])}; it must name the columns",
    )

    def batches(chosen: Sequence[str]) -> Iterator[pa.RecordBatch]:
        converting = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(chosen, pa.string()),
            include_columns=list(chosen),
            strings_can_be_null=True,
        )
        with pyarrow.csv.open_csv(path, reading, parsing, converting) as reader:
            yield from reader

    return Source(names, (pa.string(),) * len(names), None, batches)


def _parquet(path: Path) -> Source:
    with pyarrow.parquet.ParquetFile(path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
    # As it is stored: few bytes may stand for a long text in every row.
    texts = [field.name for field in schema if _is_text(field.type)]

    def batches(chosen: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rows = max(1, min(_ROWS, _BLOCK_BYTES // (8 * len(chosen))))
        # By default each row group that is read stays in memory until the file is closed.
        buffering = {"pre_buffer": False, "buffer_size": _BUFFER_BYTES}
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts, **buffering) as file:
            yield from file.iter_batches(rows, columns=list(chosen))

    return Source(tuple(schema.names), tuple(schema.types), count, batches)


def _features(
    path: Path, names: Sequence[str], label_column: str, drop_columns: Sequence[str]
) -> tuple[str, ...]:
    """The columns that are left."""
    others = (*([label_column] if label_column else []), *drop_columns)
    for name in others:
        _require_column(path, name, names)
    features = tuple(name for name in names if name not in others)
    require(len(features) > 0, f"{path} has no column but {', '.join(map(repr, others))}")
    return features


def _require_column(path: Path, name: str, names: Sequence[str]) -> None:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"its columns are {_some(names)}"
    require(name in names, f"{path} has no column {name!r}; {hint}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _require_same(
    path: Path, found: tuple[str, ...], first: Path, features: tuple[str, ...]
) -> None:
    differing = sorted(set(found) ^ set(features))
    require(
        not differing,
        f"{path} has {len(found)} columns of numbers, where {first} has {len(features)}; "
        f"{differing[0] if differing else ''!r} is in one of them alone",
    )


def _blocks(
    path: Path,
    source: Source,
    features: Sequence[str],
    beside: Sequence[str],
    keep_missing: bool,
) -> Iterator[tuple[np.ndarray, list[pa.Array]]]:
    """Float32 rows [n, D], and what stands beside them."""
    before = 0
    kinds = dict(zip(source.names, source.kinds, strict=True))
    for name in features:  # before any is read: what is nested has no bounds
        _require_numbers(path, name, kinds[name])
    for name in beside:
        require(
            not pa.types.is_nested(kinds[name]),
            f"the column {name!r} of {path} is of type {kinds[name]}; labels are numbers or text",
        )
    with _readable(path):
        for batch in source.batches((*features, *beside)):
            if len(batch) == 0:
                continue
            rows = np.empty((len(batch), len(features)), np.float32)
            for number, name in enumerate(features):
                values = _numbers(path, name, batch.column(name), before)
                with np.errstate(over="ignore"):  # what is too large is told below
                    rows[:, number] = values
                broken = np.isinf(rows[:, number])
                if broken.any():
                    row = int(np.flatnonzero(broken)[0])
                    raise UserError(
                        f"{path} holds {values[row]:g} in {_place(before + row, name)}; "
                        "only finite numbers of float32 are taken"
                    )
            if not keep_missing:
                _require_whole(path, rows, features, before)
            for name in beside:
                _require_filled(path, name, batch.column(name), before)
            yield rows, [_short(path, name, batch.column(name)) for name in beside]
            before += len(batch)
    require(before > 0, f"{path} has no row")


def _numbers(path: Path, name: str, column: pa.Array, before: int) -> np.ndarray:
    """Float64 [n] of a column, NaN where it has none."""
    kind = column.type
    if _is_text(kind):
        return _parsed(path, name, column, before)
    if not pa.types.is_floating(kind):
        column = column.cast(pa.float64(), safe=False)
    return column.to_numpy(zero_copy_only=False).astype(np.float64)


def _require_numbers(path: Path, name: str, kind: pa.DataType) -> None:
    require(
        path.suffix.lower() in SEPARATORS  # whose text is parsed
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


def _short(path: Path, name: str, column: pa.Array) -> pa.Array:
    """A column of labels or names, of which none is so long that many would fill the memory."""
    stored = isinstance(column, pa.DictionaryArray)
    texts = column.dictionary if stored else column
    if _is_text(texts.type) and len(texts):
        longest = pc.max(pc.binary_length(texts)).as_py()
        require(
            longest <= LONGEST_TEXT,
            f"the column {name!r} of {path} holds a text of {longest:,} bytes; at most "
            f"{LONGEST_TEXT:,} are allowed",
        )
    return column.dictionary_decode() if stored else column


def _parsed(path: Path, name: str, column: pa.Array, before: int) -> np.ndarray:
    try:
        return pc.utf8_trim_whitespace(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # Python reads some that Arrow does not, as +1
        values = np.full(len(column), np.nan)
        for row, text in enumerate(column.to_pylist()):
            if text is not None:
                require(
                    _is_number(text),
                    f"{path} holds {text!r} in {_place(before + row, name)}, which is no number; "
                    "in a training, data.label_column takes a column as the labels, and "
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


def _require_whole(path: Path, rows: np.ndarray, features: Sequence[str], before: int) -> None:
    missing = np.argwhere(np.isnan(rows))
    if len(missing):
        row, column = missing[0].tolist()
        raise UserError(
            f"{path} has no number in {_place(before + row, features[column])}; "
            "in a training, data.impute=mean or median fills in what is missing"
        )


def _require_filled(path: Path, name: str, column: pa.Array, before: int) -> None:
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise UserError(f"{path} holds nothing in {_place(before + row, name)}")


def _place(row: int, column: str) -> str:
    """Where a number is, of a row counted from 0."""
    return f"row {row + 1:,}, column {column!r}"


@dataclasses.dataclass(frozen=True)
class _Labels:
    """The labels of a table: integers, or the places of its words."""

    path: Path
    column: str
    values: np.ndarray  # int64 [N]
    words: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, chunks: Sequence[pa.Array], column: str) -> "_Labels":
        chunked = pa.chunked_array(chunks)
        if pa.types.is_dictionary(chunked.type):
            chunked = chunked.cast(chunked.type.value_type)
        encoded = chunked.combine_chunks().dictionary_encode()
        found = encoded.dictionary.to_pylist()
        places = encoded.indices.to_numpy(zero_copy_only=False)
        if not pa.types.is_floating(chunked.type):
            with contextlib.suppress(ValueError, OverflowError, TypeError):
                return cls(path, column, np.array([int(x) for x in found], np.int64)[places], ())
        require(
            all(isinstance(label, str) for label in found) and not all(map(_is_number, found)),
            f"the labels of {path}, its column {column!r}, must be integers or words; "
            f"{found[0]!r} is neither",
        )
        return cls(path, column, places.astype(np.int64), tuple(found))

    def numbers(self, class_names: tuple[str, ...], first: Path) -> np.ndarray:
        """Int64 [N]: the integers, or the numbers of the words in the first table."""
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
