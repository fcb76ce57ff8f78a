"""Reads a block of all columns; parses many columns of numbers at once, which is faster."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.files.columns import ColumnReader, Complaints
from trainer.data.files.numbers import quick_numbers

_GROUP_VALUES = 2**18  # that are parsed at once
# Ids of types, since pyarrow is slow to compare types.
_TEXT_ID = pa.string().id
_NUMBER_IDS = frozenset(
    pa.type_for_alias(f"{sign}int{bits}").id for sign in ("", "u") for bits in (8, 16, 32, 64)
) | {pa.float32().id, pa.float64().id}


def read(
    readers: Sequence[ColumnReader],
    found: Mapping[str, pa.Array],
    first_row: int,
    complaints: Complaints,
) -> np.ndarray:
    """Returns float64 [n, columns], as each reader reads its column [n] by itself."""
    values = np.empty((len(next(iter(found.values()))), len(readers)))
    by_itself = np.ones(len(readers), bool)
    for places in _groups(readers, found, len(values)):
        group = [readers[place] for place in places]
        columns = [found[reader.name] for reader in group]
        read_group = _read_text if group[0].is_text else _read_numbers
        numbers = read_group(group, columns, first_row)
        if numbers is not None:
            first, last = places[0], places[-1]
            is_run = last - first + 1 == len(places)
            values[:, slice(first, last + 1) if is_run else places] = numbers
            by_itself[places] = False
    for place in np.flatnonzero(by_itself).tolist():
        reader = readers[place]
        values[:, place] = reader.read(found[reader.name], first_row, complaints)
    return values


def _groups(
    readers: Sequence[ColumnReader], found: Mapping[str, pa.Array], count: int
) -> Iterator[list[int]]:
    """Yields the places of columns of the same type that may be read at once."""
    by_type: dict[int, list[int]] = {}
    for place, reader in enumerate(readers):
        column = found[reader.name]
        type_id = column.type.id
        is_text = type_id == _TEXT_ID and not column.null_count
        if reader.may_be_numbers and (type_id in _NUMBER_IDS or is_text):
            by_type.setdefault(type_id, []).append(place)
    size = _GROUP_VALUES // count
    for places in by_type.values():
        for first in range(0, len(places), size) if size > 1 else ():
            yield places[first : first + size]


def _read_numbers(
    readers: Sequence[ColumnReader], columns: Sequence[pa.Array], first_row: int
) -> np.ndarray:
    """Returns [n, columns] of one type of numbers, float64 for integers if any is missing."""
    names = [str(place) for place in range(len(columns))]
    batch = pa.RecordBatch.from_arrays(list(columns), names)
    values = batch.to_tensor(null_to_nan=True, row_major=True).to_numpy()
    if values.dtype.kind == "f":
        is_missing = np.isnan(values)
        for place in np.flatnonzero(is_missing.any(axis=0)).tolist():
            rows = np.flatnonzero(is_missing[:, place])
            readers[place].count_missing({"": len(rows)}, first_row + int(rows[0]))
    return values


def _read_text(
    readers: Sequence[ColumnReader], columns: Sequence[pa.Array], first_row: int
) -> np.ndarray | None:
    """Returns float64 [n, columns] of text; None unless all are plain numbers or missing."""
    numbers = readers[0].numbers
    text = pc.utf8_trim_whitespace(pa.concat_arrays(columns))
    marks = pa.array(numbers.missing, text.type)
    mark = pc.index_in(text, value_set=marks)  # null: no mark of a missing number
    is_missing = mark.is_valid()
    if mark.null_count < len(mark):
        text = pc.if_else(is_missing, pa.scalar(None, text.type), text)
    values = quick_numbers(text, numbers)
    if values is None:
        return None
    missing = is_missing.to_numpy(zero_copy_only=False).reshape(len(columns), -1)
    marks_of = mark.fill_null(0).to_numpy(zero_copy_only=False).reshape(missing.shape)
    for reader in itertools.compress(readers, ~missing.all(axis=1)):
        reader.recognise_numbers()
    for place in np.flatnonzero(missing.any(axis=1)).tolist():
        lacks = missing[place]
        counts = np.bincount(marks_of[place, lacks], minlength=len(marks)).tolist()
        by_text = {t: c for t, c in zip(numbers.missing, counts, strict=True) if c}
        readers[place].count_missing(by_text, first_row + int(np.argmax(lacks)))
    return values.reshape(missing.shape).T
