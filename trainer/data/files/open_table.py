"""Opens tables, text or Parquet, to read chosen columns a block of rows at a time."""

import contextlib
import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from trainer.data.files import text_format
from trainer.data.files.number_format import NumberFormat
from trainer.data.files.text_format import TextFormat
from trainer.errors import UserError, in_one_line, require
from trainer.storage import paths

_BLOCK_BYTES = 2**22  # of a block of rows, if it holds `_MIN_ROWS` of them
_WIDE_BLOCK_BYTES = 2**26  # of a block of `_MIN_ROWS` rows, at most
_MIN_ROWS = 256
_MAX_BLOCK_BYTES = 2**31 - 1  # pyarrow's
_PARQUET_ROWS = 16_384  # of a block, at most
_PARQUET_MIN_ROWS = 1024  # of a block, since each block of a column takes time, if they are within:
_PARQUET_WIDE_BLOCK_BYTES = 2**28
_PARQUET_BUFFER_BYTES = 2**20  # a column
_UNNAMED = "Unnamed: {}"  # pandas's name of a column without one
_KNOWN_SUFFIXES = {
    ".xlsx": "an Excel workbook", ".xls": "an Excel workbook", ".ods": "a spreadsheet",
    ".feather": "a Feather file", ".json": "JSON", ".jsonl": "JSON", ".zip": "a ZIP archive",
    ".h5": "an HDF5 file", ".pkl": "a pickle", ".sav": "an SPSS file", ".dta": "a Stata file",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OpenTable:
    """Describes a table by its columns; `batches` reads the rows."""

    path: Path
    names: tuple[str, ...]  # without blanks around them
    types: tuple[pa.DataType, ...]  # text for each column of a text file
    count: int | None  # of rows; None: not known before the end
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]  # of the columns with these names
    index: tuple[str, ...] = ()  # columns that only count or name the rows
    blank: tuple[str, ...] = ()  # columns without a name and without a value
    numbers: NumberFormat = dataclasses.field(default_factory=NumberFormat)
    notes: tuple[str, ...] = ()  # how the file was read, if it may surprise
    comments: Counter[str] = dataclasses.field(default_factory=Counter)  # lines left out so far


def open_table(path: Path, given: TextFormat | None = None) -> OpenTable:
    """Reads the columns' names and types.

    Raises:
      UserError: the file cannot be read, or two of its columns have the same name.
    """
    given = given or TextFormat()
    suffix = paths.table_suffix(path)
    known = _KNOWN_SUFFIXES.get(path.suffix.lower())
    advice = f"its name must end in {', '.join(paths.TABLE_SUFFIXES)}"
    require(
        suffix in paths.TABLE_SUFFIXES,
        f"{path} is {known}; save it as CSV or Parquet"
        if known
        else f"{path} is not a table; {advice}",
    )
    with readable(path):
        table = _open_parquet(path, given) if suffix == ".parquet" else _open_text(path, given)
    _require_different(path, table.names)
    return table


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns errors of reading inside into UserErrors that name the file."""
    try:
        yield
    except (pa.ArrowException, UnicodeError) as error:
        raise UserError(f"{path} cannot be read as a table ({in_one_line(error)})") from error
    except (OSError, EOFError) as error:
        number = getattr(error, "errno", None)
        why = os.strerror(number) if number else in_one_line(error)
        raise UserError(f"{path} cannot be read: {why}") from error


def _open_text(path: Path, given: TextFormat) -> OpenTable:
    """Opens a text file; reads every column as text, since inferred types could differ by block."""
    found = text_format.recognise(path, given)
    names, unnamed = _column_names(found)
    index, blank = _columns_without_values(found, unnamed)
    comments: Counter[str] = Counter()

    def skip_comments(row: pyarrow.csv.InvalidRow) -> str:
        if not (row.text or "").startswith(text_format.COMMENT):
            return "error"
        comments[row.text] += 1
        return "skip"

    parsing = pyarrow.csv.ParseOptions(
        delimiter=found.separator,
        newlines_in_values=True,
        invalid_row_handler=skip_comments,
    )
    row_bytes = found.longest_row_bytes
    is_packed = path.suffix.lower() == ".gz"
    unpacked_bytes = _MAX_BLOCK_BYTES if is_packed else path.stat().st_size + 1
    size = max(_BLOCK_BYTES, 4 * row_bytes, min(_WIDE_BLOCK_BYTES, _MIN_ROWS * row_bytes))
    reading = pyarrow.csv.ReadOptions(
        block_size=min(_MAX_BLOCK_BYTES, size, max(_BLOCK_BYTES, unpacked_bytes)),
        encoding="utf8" if found.encoding.startswith("utf-8") else found.encoding,
        column_names=names,
        skip_rows=found.skipped_lines,
        skip_rows_after_names=int(found.has_header),  # whose names may have line breaks
    )

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        comments.clear()
        converting = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=list(columns),
            strings_can_be_null=False,
        )
        with pyarrow.csv.open_csv(path, reading, parsing, converting) as reader:
            yield from reader

    return OpenTable(
        path,
        names,
        (pa.string(),) * len(names),
        None,
        batches,
        index,
        blank,
        found.numbers,
        tuple(found.notes()),
        comments,
    )


def _column_names(found: text_format.Recognised) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the columns' names, and those of them that the header leaves out."""
    if not found.has_header:
        return tuple(f"column_{number}" for number in range(1, len(found.cells) + 1)), ()
    names = [cell.strip() for cell in found.cells]
    unnamed = {place: _UNNAMED.format(place) for place, name in enumerate(names) if not name}
    return tuple(unnamed.get(place, name) for place, name in enumerate(names)), tuple(
        unnamed.values()
    )


def _columns_without_values(
    found: text_format.Recognised, unnamed: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the unnamed columns that count the rows, and those that are blank."""
    index, blank = [], []
    for name in unnamed:
        place = int(name.rpartition(" ")[2])
        cells = [row[place].strip() for row in found.first_rows if place < len(row)]
        if not any(cells):
            blank.append(name)
        elif place == 0 and all(cell.isascii() and cell.isdigit() for cell in cells):
            index += [name] if _counts(list(map(int, cells))) else []
    return tuple(index), tuple(blank)


def _open_parquet(path: Path, given: TextFormat) -> OpenTable:
    with pyarrow.parquet.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
    # Text stays dictionary-encoded: a few bytes of the file may be a long text in every row.
    texts = [field.name for field in schema if is_text(field.type)]
    names = tuple(name.strip() for name in schema.names)
    stored = dict(zip(names, schema.names, strict=True))
    pandas = (schema.pandas_metadata or {}).get("index_columns", ())
    index = tuple(
        name for name in names if stored[name] in [i for i in pandas if isinstance(i, str)]
    )

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        row_bytes = 8 * len(columns)
        wide = min(_PARQUET_WIDE_BLOCK_BYTES // row_bytes, _PARQUET_MIN_ROWS)
        by_size = max(_BLOCK_BYTES // row_bytes, wide, 1)
        # With pre_buffer, row groups stay in memory until the file is closed.
        opening = {"metadata": metadata, "pre_buffer": False, "buffer_size": _PARQUET_BUFFER_BYTES}
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts, **opening) as file:
            wanted = [stored[name] for name in columns]
            for batch in file.iter_batches(min(_PARQUET_ROWS, by_size), columns=wanted):
                yield batch.select(wanted).rename_columns(list(columns))

    numbers = NumberFormat(missing=given.missing)
    count = metadata.num_rows
    return OpenTable(path, names, tuple(schema.types), count, batches, index, (), numbers)


def open_frame(frame: Any) -> OpenTable:
    """Opens a data frame of pandas or polars, without its index, as a table of a file.

    Raises:
      UserError: two columns have the same name, or one holds neither numbers nor text.
    """
    names = tuple(str(name).strip() for name in frame.columns)
    _require_different(Path("the data frame"), names)
    to_arrow = getattr(frame, "to_arrow", None)
    try:
        held = to_arrow() if to_arrow else pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = in_one_line(error)
        raise UserError(f"a column of the data frame cannot be read: {reason}") from error
    held = held.rename_columns(list(names))

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return iter(held.select(list(columns)).to_batches(_PARQUET_ROWS))

    first = held.column(0) if names and names[0] == _UNNAMED.format(0) else None
    index = names[:1] if first is not None and _counts(first.to_pylist()) else ()
    types = tuple(held.schema.types)
    return OpenTable(Path("the data frame"), names, types, len(held), batches, index)


def _counts(values: Sequence[Any]) -> bool:
    """Returns whether values are whole numbers that rise, as those of an index."""
    whole = all(isinstance(value, int) for value in values)
    return whole and all(a < b for a, b in itertools.pairwise(values))


def _require_different(path: Path, names: Sequence[str]) -> None:
    same = [name for name, count in Counter(names).items() if count > 1]
    require(not same, f"columns of {path} have the same name: {', '.join(map(repr, same[:8]))}")


def is_text(kind: pa.DataType) -> bool:
    """Returns whether a column holds text, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
