"""Reads a user's tables, text or Parquet, a block of rows at a time, into features and labels.

Messages count rows from 1, without the header and blank lines. pyarrow's dataset scanner would
decode a whole row group of Parquet at once, with twice the memory of the readers here, or more.
"""

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.data.features import Features
from trainer.data.files import column_blocks
from trainer.data.files.columns import ColumnReader, Complaints
from trainer.data.files.labels import check_column
from trainer.data.files.open_table import OpenTable, is_text, readable
from trainer.errors import listed, require

_FIRST_ROWS = 64  # of a block
_MAX_MARKS = 8  # texts for missing values, in a line


def blocks(
    table: OpenTable,
    features: Features,
    *,
    extra: Sequence[str] = (),
    keep_missing: bool = False,
    unknown: list[str] | None = None,
) -> Iterator[tuple[np.ndarray, list[pa.Array]]]:
    """Yields float32 rows [n, D] of features.

    Each block comes with the same rows of the `extra` columns, in the file's types; text for CSV.
    Texts that are no category are refused; given a list `unknown`, all features of their column are
    0, and after the last block the list holds a line on each column with such texts.

    Raises:
      UserError: a column is missing, or as `training_tables.read`.
    """
    require_columns(table.path, (*features.columns, *extra), table.names)
    others = "refused" if unknown is None else "counted"
    readers = column_readers(table, features, onehot=False, unknown=others)
    for block in read_blocks(table, readers, extra, keep_missing, in_training=False):
        yield features.expand(block.rows), block.extra
    if unknown is not None:
        unknown[:] = [
            f"column {reader.name!r} in {reader.unknown_rows:,} "
            f"row{'s' if reader.unknown_rows > 1 else ''}, such as {reader.unknown_text!r}"
            for reader in readers
            if reader.unknown_rows
        ]


@dataclasses.dataclass(frozen=True)
class Block:
    """Holds consecutive rows of a table, with categories as indices."""

    rows: np.ndarray  # float32 [n, columns]
    is_whole: np.ndarray  # bool [columns]: no value has decimals
    extra: list[pa.Array]


def require_columns(path: Path, wanted: Sequence[str], names: Sequence[str]) -> None:
    """Raises UserError unless the wanted columns are among the names of a table's."""
    there = set(names)
    missing = [name for name in wanted if name not in there]
    if missing:
        close = difflib.get_close_matches(missing[0], names, n=1)
        hint = f"its columns are {listed(map(repr, names))}"
        several = tuple(part.strip() for part in missing[0].split(","))
        if len(several) > 1 and there.issuperset(several):
            hint = f'keys of several columns, such as data.drop_columns, are written "{several}"'
        elif close:
            hint = f"did you mean {close[0]!r}?"
        plural = "columns" if len(missing) > 1 else "column"
        require(False, f"{path} has no {plural} {listed(map(repr, missing))}; {hint}")


def column_readers(
    table: OpenTable,
    features: Features,
    *,
    onehot: bool,
    forced: frozenset[str] = frozenset(),
    unknown: str = "refused",
) -> list[ColumnReader]:
    """Returns a reader for each column, if all are of types that can be read.

    Texts that are none of a column's known categories are "refused" or "counted".
    """
    types = dict(zip(table.names, table.types, strict=True))
    complaints = Complaints(table.path)
    for name in features.columns:  # before any row is read: nested values have no bounds
        kind = types[name]
        if not (_is_number(kind) or is_text(kind)):
            complaints.add(
                name,
                f"column {name!r} is of type {kind}",
                keys="data.drop_columns and data.id_columns leave columns out",
            )
    complaints.raise_any()
    return [
        ColumnReader(
            name,
            types[name],
            table.numbers,
            onehot=onehot,
            categories=features.categories.get(name, () if name in forced else None),
            unknown=unknown if name in features.categories else "added",
        )
        for name in features.columns
    ]


def _is_number(kind: pa.DataType) -> bool:
    checks = ("integer", "floating", "boolean", "decimal", "null")
    return any(getattr(pa.types, f"is_{check}")(kind) for check in checks)


def read_blocks(
    table: OpenTable,
    readers: Sequence[ColumnReader],
    extra: Sequence[str],
    keep_missing: bool,
    in_training: bool = True,
) -> Iterator[Block]:
    """Yields the rows of a table, and raises every complaint about its columns at the end."""
    path, first_row = table.path, 0
    complaints = Complaints(path, in_training=in_training)
    names = list(dict.fromkeys([*(reader.name for reader in readers), *extra]))
    with readable(path):
        for batch in table.batches(names):
            if len(batch) == 0:
                continue
            found = dict(zip(names, batch.columns, strict=True))
            values = column_blocks.read(readers, found, first_row, complaints)
            with np.errstate(over="ignore"):  # numbers too large for float32 become infinite
                rows = values.astype(np.float32)
            _check_infinite(values, rows, readers, first_row, complaints)
            yield Block(
                rows,
                _are_whole(values),
                [check_column(path, name, found[name], first_row) for name in extra],
            )
            first_row += len(batch)
    if not keep_missing:
        for reader in readers:
            if reader.missing:
                complaints.add(
                    reader.name,
                    f"column {reader.name!r} has missing values: {sum(reader.missing.values()):,} "
                    f"({counted(reader.missing)}; first in row {reader.first_missing + 1:,})",
                    keys="data.impute=mean or median fills in missing values",
                )
    complaints.raise_any()
    require(first_row > 0, f"{path} has no row")


def _are_whole(values: np.ndarray) -> np.ndarray:
    """Returns for each column [n] whether no value has decimals or is missing."""
    with np.errstate(invalid="ignore"):
        first = values[:_FIRST_ROWS]  # which decide for most columns
        are_whole = (first == np.rint(first)).all(axis=0)
        rest = values[_FIRST_ROWS:, are_whole]
        are_whole[are_whole] = (rest == np.rint(rest)).all(axis=0)
    return are_whole


def _check_infinite(
    values: np.ndarray,
    rows: np.ndarray,
    readers: Sequence[ColumnReader],
    first_row: int,
    complaints: Complaints,
) -> None:
    infinite = np.isinf(rows)
    for place in np.flatnonzero(infinite.any(axis=0)).tolist():
        row = int(np.argmax(infinite[:, place]))
        name = readers[place].name
        complaints.add(
            name,
            f"column {name!r} holds {values[row, place]:g} in row {first_row + row + 1:,}",
            rule="Only finite numbers of float32 are allowed",
        )


def counted(missing: Counter[str]) -> str:
    """Returns the most frequent texts for missing values, with their counts."""
    return ", ".join(
        f"{mark or 'blank'}: {count:,}" for mark, count in missing.most_common(_MAX_MARKS)
    )
