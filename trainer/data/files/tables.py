"""Reads a user's tables, text or Parquet, a block of rows at a time, into features and labels.

Messages count rows from 1, without the header and blank lines. pyarrow's dataset scanner would
decode a whole row group of Parquet at once, with twice the memory of the readers here, or more.
"""

import dataclasses
import difflib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.data.features import Features
from trainer.data.files import columns
from trainer.data.files.columns import ColumnReader, Complaints
from trainer.data.files.labels import Labels, check_column
from trainer.data.files.open_table import OpenTable, is_text, open_table, readable
from trainer.data.files.text_format import TextFormat
from trainer.data.memory import GIB
from trainer.errors import require

_MAX_SHOWN = 8  # names of columns or texts in a line


@dataclasses.dataclass(frozen=True)
class Columns:
    """Says what the columns of a table are, if not features of numbers."""

    label: str = ""
    ids: tuple[str, ...] = ()  # kept beside the rows, as they are
    drop: tuple[str, ...] = ()
    onehot: bool = False  # columns of text are categories
    keep_missing: bool = False  # missing numbers become NaN


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds the rows of one file."""

    rows: np.ndarray  # float32 [N, D], NaN where a number is missing
    labels: np.ndarray | None  # int64 [N]
    ids: dict[str, np.ndarray]  # [N] by column, numbers or text


@dataclasses.dataclass(frozen=True)
class Tables:
    """Holds one table, or one to train and one to test with the same columns."""

    tables: tuple[Table, ...]
    features: Features
    class_names: tuple[str, ...]  # by label, if the labels are words
    notes: tuple[str, ...]  # how each file was read, in a line


def read(
    paths: Sequence[Path],
    what: Columns = Columns(),
    text: TextFormat | None = None,
    allowed_bytes: float = math.inf,
) -> Tables:
    """Reads tables whose other columns are features.

    Labels are whole numbers, or words, whose sorted order in the first table numbers them from 0.
    The other tables may have the columns in another order, and no labels.

    Raises:
      UserError: a file cannot be read or has other columns; a value is no number, missing,
        infinite or too large for float32; the rows take more than the allowed bytes.
    """
    features: Features | None = None
    results: list[_Rows] = []
    for path in paths:
        table = open_table(path, text)
        is_first = features is None
        chosen, notes = _choose(table, what, is_first=is_first)
        if features is not None:
            _require_same(path, chosen, paths[0], features.columns)
        result = _read_rows(table, features or Features(chosen), what, allowed_bytes, is_first)
        features = features or result.features
        results.append(dataclasses.replace(result, notes=(*table.notes, *notes, *result.notes)))
    assert features is not None
    first = results[0].labels
    class_names = tuple(sorted(first.words)) if first else ()
    tables = tuple(
        Table(
            features.expand(result.rows),
            None if result.labels is None else result.labels.indices(class_names, paths[0]),
            result.ids,
        )
        for result in results
    )
    lines = [
        f"{path}: {'; '.join(result.notes)}"
        for path, result in zip(paths, results, strict=True)
        if result.notes
    ]
    return Tables(tables, features, class_names, tuple(lines))


def blocks(
    table: OpenTable,
    features: Features,
    *,
    extra: Sequence[str] = (),
    keep_missing: bool = False,
) -> Iterator[tuple[np.ndarray, list[pa.Array]]]:
    """Yields float32 rows [n, D] of features.

    Each block comes with the same rows of the `extra` columns, in the file's types; text for CSV.

    Raises:
      UserError: a column is missing, or as `read`.
    """
    _require_columns(table.path, (*features.columns, *extra), table.names)
    readers = _readers(table, features, onehot=False)
    for block in _blocks(table, readers, extra, keep_missing):
        yield features.expand(block.rows), block.extra


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Holds what one table holds, with categories as indices."""

    rows: np.ndarray  # float32 [N, columns]
    features: Features
    labels: Labels | None
    ids: dict[str, np.ndarray]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Block:
    rows: np.ndarray  # float32 [n, columns]
    is_whole: np.ndarray  # bool [columns]: no value has decimals
    extra: list[pa.Array]


def _choose(
    table: OpenTable, what: Columns, *, is_first: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the columns that are features, and notes on the columns that are not."""
    named = [*([what.label] if what.label else []), *what.ids, *what.drop]
    _require_columns(table.path, named if is_first else what.ids, table.names)
    unnamed = [*table.index, *table.blank]
    others = {*named, *unnamed}
    features = tuple(name for name in table.names if name not in others)
    require(
        len(features) > 0,
        f"{table.path} has no column but {', '.join(map(repr, table.names[:_MAX_SHOWN]))}",
    )
    notes = []
    for kind, names in (("index", table.index), ("blank column", table.blank)):
        left_out = [name for name in names if name not in named]
        notes += [f"left out the {kind} {_listed(left_out)}"] if left_out else []
    if what.label and what.label not in table.names:
        notes.append(f"has no column {what.label!r}: what needs labels is not measured on it")
    return features, notes


def _require_columns(path: Path, wanted: Sequence[str], names: Sequence[str]) -> None:
    there = set(names)
    missing = [name for name in wanted if name not in there]
    if missing:
        close = difflib.get_close_matches(missing[0], names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"its columns are {_listed(names)}"
        plural = "columns" if len(missing) > 1 else "column"
        require(False, f"{path} has no {plural} {_listed(missing)}; {hint}")


def _require_same(
    path: Path, found: tuple[str, ...], first: Path, feature_names: tuple[str, ...]
) -> None:
    differing = sorted(set(found) ^ set(feature_names))
    require(
        not differing,
        f"{path} has {len(found)} columns of features, {first} has {len(feature_names)}; "
        f"only one of them has {_listed(differing)}",
    )


def _readers(
    table: OpenTable,
    features: Features,
    *,
    onehot: bool,
    forced: frozenset[str] = frozenset(),
) -> list[ColumnReader]:
    """Returns a reader for each column, if all are of types that can be read."""
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
            is_closed=name in features.categories,
        )
        for name in features.columns
    ]


def _is_number(kind: pa.DataType) -> bool:
    checks = ("integer", "floating", "boolean", "decimal", "null")
    return any(getattr(pa.types, f"is_{check}")(kind) for check in checks)


def _read_rows(
    table: OpenTable, features: Features, what: Columns, allowed_bytes: float, is_first: bool
) -> _Rows:
    """Reads the whole of a table; finds the categories of the first."""
    label = [what.label] if what.label in table.names and what.label else []
    extra = [*label, *what.ids]
    readers, parts = _read_parts(table, features, what, allowed_bytes, extra)
    rows = np.concatenate([part.rows for part in parts])
    if is_first:
        found = {reader.name: reader.categories for reader in readers}
        features = Features(
            features.columns, {name: values for name, values in found.items() if values is not None}
        )
        features, rows = columns.sorted_categories(features, rows)
    chunks = [[part.extra[place] for part in parts] for place in range(len(extra))]
    labels = Labels.of(table.path, what.label, chunks[0]) if label else None
    ids = {
        name: _as_array(column) for name, column in zip(what.ids, chunks[len(label) :], strict=True)
    }
    whole = np.all([part.is_whole for part in parts], axis=0)
    notes = [*_notes(readers), *(_note_on_ids(readers, rows, whole) if is_first else ())]
    comments = sum(table.comments.values())
    notes += [f"comments left out between the rows: {comments:,}"] if comments else []
    return _Rows(rows, features, labels, ids, tuple(notes))


def _read_parts(
    table: OpenTable,
    features: Features,
    what: Columns,
    allowed_bytes: float,
    extra: Sequence[str],
) -> tuple[list[ColumnReader], list[_Block]]:
    """Reads all blocks; again if a column of numbers turns out to be one of categories."""
    forced: frozenset[str] = frozenset()
    while True:
        readers = _readers(table, features, onehot=what.onehot, forced=forced)
        parts, size = [], 0
        for block in _blocks(table, readers, extra, what.keep_missing):
            size += block.rows.nbytes
            require(
                size <= allowed_bytes,
                f"{table.path} takes more than the {allowed_bytes / GIB:.1f} GiB of memory",
            )
            parts.append(block)
        late = frozenset(reader.name for reader in readers if reader.is_late_category)
        if not late:
            return readers, parts
        forced |= late


def _blocks(
    table: OpenTable,
    readers: Sequence[ColumnReader],
    extra: Sequence[str],
    keep_missing: bool,
) -> Iterator[_Block]:
    """Yields the rows of a table, and raises every complaint about its columns at the end."""
    path, first_row, complaints = table.path, 0, Complaints(table.path)
    names = list(dict.fromkeys([*(reader.name for reader in readers), *extra]))
    with readable(path):
        for batch in table.batches(names):
            if len(batch) == 0:
                continue
            found = dict(zip(names, batch.columns, strict=True))
            values = np.stack(
                [reader.read(found[reader.name], first_row, complaints) for reader in readers],
                axis=1,
            )
            with np.errstate(over="ignore"):  # numbers too large for float32 become infinite
                rows = values.astype(np.float32)
            _check_infinite(values, rows, readers, first_row, complaints)
            with np.errstate(invalid="ignore"):
                is_whole = (values == np.rint(values)).all(axis=0)
            yield _Block(
                rows,
                is_whole,
                [check_column(path, name, found[name], first_row) for name in extra],
            )
            first_row += len(batch)
    if not keep_missing:
        for reader in readers:
            if reader.missing:
                complaints.add(
                    reader.name,
                    f"column {reader.name!r} lacks {sum(reader.missing.values()):,} numbers "
                    f"({_counted(reader.missing)}; first in row {reader.first_missing + 1:,})",
                    keys="data.impute=mean or median fills in missing numbers",
                )
    complaints.raise_any()
    require(first_row > 0, f"{path} has no row")


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


def _as_array(chunks: Sequence[pa.Array]) -> np.ndarray:
    """Returns a column [N] as numbers or text, in the file's type."""
    column = pa.chunked_array(chunks)
    values = column.to_numpy()
    return values.astype(str) if values.dtype.hasobject else values


def _notes(readers: Sequence[ColumnReader]) -> Iterator[str]:
    """Describes what was taken for something else than a number."""
    booleans = [reader.name for reader in readers if reader.is_boolean]
    if booleans:
        yield f"True and False are 1 and 0 in {_listed(booleans)}"
    onehot = [f"{r.name} ({len(r.categories)})" for r in readers if r.categories is not None]
    if onehot:
        yield f"one feature a text, one-hot, for {', '.join(onehot[:_MAX_SHOWN])}"
    missing: Counter[str] = Counter()
    for reader in readers:
        missing.update(reader.missing)
    if missing:
        count = sum(bool(reader.missing) for reader in readers)
        yield f"missing in {count} column{'s' * (count > 1)}: {_counted(missing)}"


def _note_on_ids(
    readers: Sequence[ColumnReader], rows: np.ndarray, is_whole: np.ndarray
) -> Iterator[str]:
    """Names the features that are likely to be ids, unless all are."""
    ids = list(columns.likely_ids([reader.name for reader in readers], rows, is_whole))
    if 0 < len(ids) < len(readers):
        yield f"likely ids, yet features: {_listed(ids)} (data.id_columns keeps them out)"


def _counted(missing: Counter[str]) -> str:
    return ", ".join(
        f"{mark or 'blank'}: {count:,}" for mark, count in missing.most_common(_MAX_SHOWN)
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MAX_SHOWN
    return ", ".join(map(repr, names[:_MAX_SHOWN])) + (f" and {more:,} more" if more > 0 else "")
