"""Reads the tables of a training: features, labels and ids, in memory or left in a cache file."""

import dataclasses
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from trainer.data.dataset import Records, named
from trainer.data.features import Features
from trainer.data.files import columns, table_cache
from trainer.data.files.columns import ColumnReader
from trainer.data.files.labels import Labels
from trainer.data.files.open_table import OpenTable, open_table, readable
from trainer.data.files.tables import (
    column_readers,
    counted,
    read_blocks,
    require_columns,
)
from trainer.data.files.text_format import TextFormat
from trainer.data.memory import GIB, aligned_empty, blocks
from trainer.errors import listed, require

_Target = TypeVar("_Target", bound=table_cache.Target)
_NUMBER_BYTES = np.dtype(np.float32).itemsize


@dataclasses.dataclass(frozen=True)
class ColumnRoles:
    """Names the columns of a table that are not numeric features."""

    label: str = ""
    ids: tuple[str, ...] = ()  # kept beside the rows, as they are
    drop: tuple[str, ...] = ()
    onehot: bool = False  # columns of text are categories
    keep_missing: bool = False  # missing numbers become NaN


@dataclasses.dataclass(frozen=True)
class Storage:
    """Says where the rows of tables are kept."""

    placement: str = "auto"  # data.placement
    allowed_bytes: float = math.inf  # of memory
    cache_dir: str = ""  # data.cache_dir

    @property
    def may_stay(self) -> bool:
        """Returns whether rows may stay in a file."""
        return self.placement in ("auto", "records")


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds the rows of one file."""

    rows: np.ndarray | Records  # float32 [N, D], NaN where a number is missing
    labels: np.ndarray | None  # int64 [N]
    ids: dict[str, np.ndarray | Records]  # [N] by column, numbers or text


@dataclasses.dataclass(frozen=True)
class Tables:
    """Holds one table, or one to train and one to test with the same columns."""

    tables: tuple[Table, ...]
    features: Features
    class_names: tuple[str, ...]  # by label, if the labels are words
    notes: tuple[str, ...]  # how each file was read, in a line


def read(
    paths: Sequence[Path],
    what: ColumnRoles = ColumnRoles(),
    text: TextFormat | None = None,
    storage: Storage = Storage(),
) -> Tables:
    """Reads tables whose other columns are features.

    Labels are whole numbers, or words, whose sorted order in the first table numbers them from 0;
    words of another table alone follow. The other tables may have the columns in another order, and
    no labels. Rows that do not fit the allowed bytes are left in a cache.

    Raises:
      UserError: a file cannot be read or has other columns; a value is not a number, missing,
        infinite or too large for float32; the rows do not fit the allowed bytes and may not stay in
        a file, or the file cannot be written.
    """
    text = text or TextFormat()
    features: Features | None = None
    class_names: tuple[str, ...] = ()
    found: list[Table] = []
    lines: list[str] = []
    for path in paths:
        table = open_table(path, text)
        chosen, notes = _choose(table, what, is_first=features is None)
        if features is not None:
            _require_same(path, chosen, paths[0], features.columns)
        reading = _Reading(table, features or Features(chosen), what, features is None)
        content = _content(reading, text, storage)
        labels = Labels.of(path, what.label, content.extra[0]) if reading.has_labels else None
        if labels:
            class_names = labels.extend(class_names if found else None, paths[0])
        features = content.features
        rows = content.rows()
        if isinstance(rows, np.ndarray):
            left = storage.allowed_bytes - rows.nbytes
            storage = dataclasses.replace(storage, allowed_bytes=left)
        numbers = None if labels is None else labels.indices(class_names)
        if found:
            notes += _note_on_classes(found[0].labels, numbers, class_names)
        found.append(Table(rows, numbers, content.ids(what.ids)))
        said = [*table.notes, *notes, *content.notes]
        lines += [f"{path}: {'; '.join(said)}"] if said else []
    assert features is not None
    return Tables(tuple(found), features, class_names, tuple(lines))


@dataclasses.dataclass(frozen=True)
class _Content:
    """Holds what one table holds."""

    features: Features
    parts: deque[np.ndarray]  # float32 [n, columns], with categories as indices
    renumber: Callable[[np.ndarray], np.ndarray]  # of rows [n, columns] whose indices are unsorted
    extra: Sequence[pa.ChunkedArray]  # [N], the labels if there are any, and the ids
    notes: Sequence[str]
    stays: bool = False  # in a file

    @property
    def count(self) -> int:
        return sum(map(len, self.parts))

    @property
    def nbytes(self) -> int:
        """Returns the size of the features in memory."""
        return self.count * len(self.features.names) * _NUMBER_BYTES

    def rows(self) -> np.ndarray | Records:
        """Returns the features [N, D], in memory that TensorFlow can share or as records."""
        if self.stays:
            (mapped,) = self.parts
            return _records(
                lambda chosen: self.features.expand(self.renumber(mapped[chosen])), len(mapped)
            )
        held = aligned_empty((self.count, len(self.features.names)), np.float32)
        start = 0
        while self.parts:  # each is freed when it is copied: a second copy may not fit
            for rows in blocks(self.parts.popleft()):
                held[start : start + len(rows)] = self.features.expand(self.renumber(rows))
                start += len(rows)
        return held

    def ids(self, names: Sequence[str]) -> dict[str, np.ndarray | Records]:
        """Returns the last columns, which are ids of these names."""
        found = self.extra[len(self.extra) - len(names) :]
        convert = _column_records if self.stays else _as_array
        return {name: convert(column) for name, column in zip(names, found, strict=True)}


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Says how to read one table."""

    table: OpenTable
    features: Features  # without the categories of the first table, which are yet to be found
    what: ColumnRoles
    is_first: bool

    @property
    def has_labels(self) -> bool:
        return self.what.label != "" and self.what.label in self.table.names

    @property
    def size(self) -> int | None:
        """Returns the bytes of all rows, categories as indices; None: known only at the end."""
        count = self.table.count
        return None if count is None else count * len(self.features.columns) * _NUMBER_BYTES

    def scan(self, new_target: Callable[[], _Target]) -> tuple[_Target, dict[str, Any]]:
        """Reads all rows; again if a column of numbers turns out to be one of categories.

        Returns the target that took the rows, and for `_Content` their categories and notes.
        """
        extra = [*([self.what.label] if self.has_labels else []), *self.what.ids]
        forced: frozenset[str] = frozenset()
        while True:
            readers = column_readers(
                self.table, self.features, onehot=self.what.onehot, forced=forced
            )
            target, is_whole = new_target(), np.ones(len(readers), bool)
            for block in read_blocks(self.table, readers, extra, self.what.keep_missing):
                target.add(block.rows, block.extra)
                is_whole &= block.is_whole
            late = frozenset(reader.name for reader in readers if reader.is_late_category)
            if not late:
                break
            forced |= late
        names, notes, parts = [r.name for r in readers], list(_notes(readers)), target.parts()
        if self.is_first:
            notes += _note_on_ids(names, columns.likely_ids(names, parts, is_whole))
        comments = sum(self.table.comments.values())
        notes += [f"comments left out between the rows: {comments:,}"] if comments else []
        found = {r.name: r.categories for r in readers if r.categories is not None}
        return target, {"categories": found, "notes": notes}

    def content(
        self,
        parts: Iterable[np.ndarray],
        extra: Sequence[pa.ChunkedArray],
        about: Mapping[str, Any],
    ) -> _Content:
        """Returns what a scan has read; sorts the categories of the first table."""
        found = {name: tuple(values) for name, values in about["categories"].items()}
        features, renumber = self.features, lambda rows: rows
        if self.is_first:
            features, renumber = columns.sorted_categories(Features(features.columns, found))
        return _Content(features, deque(parts), renumber, extra, about["notes"])


class _TooLargeError(Exception):
    """Reports rows that do not fit the allowed bytes."""


class _Held:
    """Keeps blocks of rows in memory."""

    def __init__(self, allowed_bytes: float):
        self._left_bytes = allowed_bytes
        self._parts: list[np.ndarray] = []
        self.extra: list[Sequence[pa.Array]] = []

    def add(self, rows: np.ndarray, extra: Sequence[pa.Array]) -> None:
        self._left_bytes -= rows.nbytes
        if self._left_bytes < 0:
            raise _TooLargeError
        self._parts.append(rows)
        self.extra.append(extra)

    def parts(self) -> list[np.ndarray]:
        return self._parts


def _content(reading: _Reading, text: TextFormat, storage: Storage) -> _Content:
    """Reads a table into memory, or from a cache if there is one or memory is too small."""
    path, allowed = reading.table.path, storage.allowed_bytes
    settings = [dataclasses.asdict(part) for part in (reading.what, text, reading.features)]
    with readable(path):
        folder = table_cache.path_of(path, [*settings, reading.is_first], storage.cache_dir)
    cached = table_cache.CachedTable.open(folder)
    if cached is None and storage.placement != "records":
        content = _held(reading, allowed)
        if content is not None:
            return content
        _require_may_stay(path, storage)
    if cached is None:
        cached = table_cache.open_or_make(folder, reading.scan, table=path, size=reading.size)
    content = reading.content([cached.rows], cached.extra, cached.about)
    if storage.placement != "records" and content.nbytes <= allowed:
        return content
    _require_may_stay(path, storage)
    return dataclasses.replace(content, stays=True)


def _held(reading: _Reading, allowed_bytes: float) -> _Content | None:
    """Reads a table into memory; returns None if its features do not fit."""
    if reading.size is not None and reading.size > allowed_bytes:
        return None
    try:
        held, about = reading.scan(lambda: _Held(allowed_bytes))
    except _TooLargeError:
        return None
    extra = [pa.chunked_array(list(chunks)) for chunks in zip(*held.extra, strict=True)]
    content = reading.content(held.parts(), extra, about)
    return content if content.nbytes <= allowed_bytes else None


def _require_may_stay(path: Path, storage: Storage) -> None:
    require(
        storage.may_stay,
        f"data.placement={storage.placement!r} is not allowed: {path} takes more than the "
        f"{storage.allowed_bytes / GIB:.1f} GiB of memory; auto leaves the rows in a file",
    )


def _choose(
    table: OpenTable, what: ColumnRoles, *, is_first: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the columns that are features, and notes on the columns that are not."""
    named = [*([what.label] if what.label else []), *what.ids, *what.drop]
    require_columns(table.path, named if is_first else what.ids, table.names)
    unnamed = [*table.index, *table.blank]
    others = {*named, *unnamed}
    features = tuple(name for name in table.names if name not in others)
    require(
        len(features) > 0,
        f"{table.path} has no column but {listed(map(repr, table.names))}",
    )
    notes = []
    for kind, names in (("index", table.index), ("blank column", table.blank)):
        left_out = [name for name in names if name not in named]
        notes += [f"left out the {kind} {listed(map(repr, left_out))}"] if left_out else []
    if what.label and what.label not in table.names:
        notes.append(f"has no column {what.label!r}: what needs labels is not measured on it")
    return features, notes


def _require_same(
    path: Path, found: tuple[str, ...], first: Path, feature_names: tuple[str, ...]
) -> None:
    differing = sorted(set(found) ^ set(feature_names))
    require(
        not differing,
        f"{path} has {len(found)} columns of features, {first} has {len(feature_names)}; "
        f"only one of them has {listed(map(repr, differing))}",
    )


def _records(read_rows: Callable[[np.ndarray], np.ndarray], count: int) -> Records:
    dtype = np.int32 if count < 2**31 else np.int64
    return Records(read_rows, np.arange(count, dtype=dtype))


def _column_records(column: pa.ChunkedArray) -> Records:
    """Returns a column that stays in a file; rows are taken from the span between them."""

    def read_rows(chosen: np.ndarray) -> np.ndarray:
        first = int(chosen.min())
        return _as_array(column.slice(first, int(chosen.max()) - first + 1))[chosen - first]

    return _records(read_rows, len(column))


def _as_array(column: pa.ChunkedArray) -> np.ndarray:
    """Returns a column [N] as numbers or text, in the file's type."""
    values = column.to_numpy()
    return values.astype(str) if values.dtype.hasobject else values


def _notes(readers: Sequence[ColumnReader]) -> Iterator[str]:
    """Describes what was taken for something else than a number."""
    booleans = [reader.name for reader in readers if reader.is_boolean]
    if booleans:
        yield f"True and False are 1 and 0 in {listed(map(repr, booleans))}"
    onehot = [f"{r.name} ({len(r.categories)})" for r in readers if r.categories is not None]
    if onehot:
        yield f"one feature a text, one-hot, for {listed(onehot)}"
    missing: Counter[str] = Counter()
    for reader in readers:
        missing.update(reader.missing)
    if missing:
        count = sum(bool(reader.missing) for reader in readers)
        yield f"missing in {count} column{'s' * (count > 1)}: {counted(missing)}"


def _note_on_ids(names: Sequence[str], found: Iterable[str]) -> Iterator[str]:
    """Names the features that are likely to be ids, unless all are."""
    ids = list(found)
    if 0 < len(ids) < len(names):
        yield f"likely ids, yet features: {listed(map(repr, ids))} (data.id_columns keeps them out)"


def _note_on_classes(
    train: np.ndarray | None, other: np.ndarray | None, class_names: tuple[str, ...]
) -> Iterator[str]:
    """Names the classes that the first table lacks."""
    new = named(None if train is None or other is None else np.setdiff1d(other, train), class_names)
    if new is not None and len(new):
        yield f"classes without training rows: {listed(map(str, new))}"
