"""Turns the columns of a table into features: numbers, True/False, or one-hot categories."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.features import Features
from trainer.data.files.number_format import NumberFormat
from trainer.data.files.numbers import Parsed, parse_column, without_missing
from trainer.data.files.open_table import is_text
from trainer.errors import UserError

MAX_CATEGORIES = 100  # of a column
_BOOLEANS = {"true": 1.0, "false": 0.0}
_MIN_IDS = 100
_ID_SHARE = 0.99  # of an id's values differ
_MAX_COMPARED_ROWS = 100_000  # to recognise ids
_COMPARED_NUMBERS = 2**24  # at a time
_MAX_COMPLAINTS = 5  # columns that one message names
_AS_IN_TRAINING = "A run takes only what its training could read: correct the file"


class Complaints:
    """Collects what is wrong with the columns of a table, to be said all at once."""

    def __init__(self, where: object, *, in_training: bool = True):
        """Collects for one file; `in_training` names the config keys that would help."""
        self._where = where
        self._in_training = in_training
        self._first: dict[str, str] = {}  # by column
        self._rules: dict[str, None] = {}  # in the order of the complaints
        self._helps: dict[str, None] = {}

    def add(
        self, column: str, problem: str, *, rule: str = "", keys: str = "", flags: str = ""
    ) -> None:
        """Keeps the first complaint about each column, with a rule.

        Says what helps: in a training `keys` of its config, for a trained run `flags`.
        """
        helps = keys if self._in_training else flags or (keys and _AS_IN_TRAINING)
        if column not in self._first:
            self._first[column] = problem
            self._rules |= {rule: None} if rule else {}
            self._helps |= {helps: None} if helps else {}

    def raise_any(self) -> None:
        """Raises UserError with every complaint, in one line."""
        if not self._first:
            return
        names, problems = list(self._first), list(self._first.values())
        shown, more = problems[:_MAX_COMPLAINTS], len(problems) - _MAX_COMPLAINTS
        if more > 0:
            columns = "columns, such as" if more > 1 else "column,"
            shown.append(f"and so in {more:,} more {columns} {names[_MAX_COMPLAINTS]!r}")
        advice = [*self._rules]
        if self._helps:
            advice.append(("In a config, " if self._in_training else "") + "; ".join(self._helps))
        raise UserError(f"{self._where}: {'; '.join(shown)}. {'. '.join(advice)}")


class ColumnReader:
    """Reads one column block by block, as numbers, True/False or categories."""

    def __init__(
        self,
        name: str,
        kind: pa.DataType,
        numbers: NumberFormat,
        *,
        onehot: bool,
        categories: Sequence[str] | None = None,
        unknown: str = "added",
    ):
        """Takes how to read a column.

        Args:
          name: of the column.
          kind: its type in the file.
          numbers: how its text writes numbers.
          onehot: whether text that is not a number is a category.
          categories: texts that the column is known to hold; None: it may hold numbers.
          unknown: whether other texts are "added" to the categories, "refused" or "counted".
        """
        self.name = name
        self.is_text = is_text(kind)
        self.numbers = numbers
        self._onehot = onehot
        self._reads = "" if self.is_text else "numbers"  # "": not known yet
        if categories is not None:
            self._reads = "categories"
        self._known = {value: place for place, value in enumerate(categories or ())}
        self._unknown = unknown
        self.unknown_rows = 0  # if "counted"
        self.unknown_text = ""  # the first
        self.is_late_category = False  # read as numbers so far, but holds other texts
        self.missing: Counter[str] = Counter()  # by text
        self.first_missing = 0  # row

    @property
    def is_boolean(self) -> bool:
        """Returns whether the text read so far was True or False."""
        return self._reads == "booleans"

    @property
    def categories(self) -> tuple[str, ...] | None:
        """Returns the texts read so far, by index; None for a column of numbers."""
        return tuple(self._known) if self._reads == "categories" else None

    @property
    def may_be_numbers(self) -> bool:
        """Returns whether the column holds numbers, or so far only missing values."""
        return self._reads in ("", "numbers")

    def recognise_numbers(self) -> None:
        """Notes that values read elsewhere were numbers."""
        self._reads = "numbers"

    def count_missing(self, by_text: Mapping[str, int], first_row: int) -> None:
        """Counts missing values, the first of them in a row."""
        if not self.missing:
            self.first_missing = first_row
        self.missing.update(by_text)

    def read(self, column: pa.Array, first_row: int, complaints: Complaints) -> np.ndarray:
        """Returns float64 [n]: numbers, or indices of categories; NaN where one is missing.

        The index of a text that is counted as unknown is the number of the categories.
        """
        had_missing = bool(self.missing)
        values = self._values(column, first_row, complaints)
        if self.missing and not had_missing:
            self.first_missing = first_row + int(np.argmax(np.isnan(values)))
        return values

    def _values(self, column: pa.Array, first_row: int, complaints: Complaints) -> np.ndarray:
        if not self.is_text:
            if self._reads != "categories":
                return self._read_numbers(column)
            column = _as_text(column)  # such as "1" and "2", which pandas reads as numbers
        if isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()
        if not self._reads:
            self._reads = self._recognise(column)
        if self._reads == "categories":
            return self._read_categories(column, first_row, complaints)
        parsed = parse_column(column, self.numbers)
        if self._reads == "booleans" and parsed.wrong:
            parsed = _parse_booleans(column, self.numbers)
        self.missing.update(parsed.missing)
        if parsed.wrong and self._onehot:
            self.is_late_category = True
        elif parsed.wrong:
            row, text = parsed.wrong
            count = parsed.wrong_count
            many = f"text in at least {count:,} rows, such as " if count > 1 else ""
            complaints.add(
                self.name,
                f"column {self.name!r} holds {many}{text!r} in row {first_row + row + 1:,}",
                keys="data.categorical=onehot takes columns of few different texts, "
                "data.label_column one of labels, data.drop_columns and data.id_columns leave "
                "columns out, data.missing lists the texts for missing numbers",
            )
        return parsed.values

    def _recognise(self, column: pa.Array) -> str:
        """Returns how to read the column, by its first values; "" if all of them are missing."""
        text, _ = without_missing(column, self.numbers.missing)
        text = text.drop_null()
        if not len(text):
            return ""
        if pc.all(
            pc.is_in(pc.utf8_lower(text), value_set=pa.array([*_BOOLEANS], text.type))
        ).as_py():
            return "booleans"
        if self._onehot and parse_column(text, self.numbers).wrong:
            return "categories"
        return "numbers"

    def _read_numbers(self, column: pa.Array) -> np.ndarray:
        if not pa.types.is_floating(column.type):
            column = column.cast(pa.float64(), safe=False)
        values = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
        missing = int(np.isnan(values).sum())
        if missing:
            self.missing[""] += missing
        return values

    def _read_categories(
        self, column: pa.Array, first_row: int, complaints: Complaints
    ) -> np.ndarray:
        text, missing = without_missing(column, self.numbers.missing)
        self.missing.update(missing)
        encoded = text.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        unknown = [value for value in texts if value not in self._known]
        if self._unknown == "added":
            if len(self._known) <= MAX_CATEGORIES:
                for value in unknown:
                    self._known.setdefault(value, len(self._known))
            if len(self._known) > MAX_CATEGORIES:
                complaints.add(
                    self.name,
                    f"column {self.name!r} holds more than {MAX_CATEGORIES} different texts",
                    keys="data.drop_columns and data.id_columns leave columns out",
                )
        elif self._unknown == "refused" and unknown:
            row = pc.index(text, pa.scalar(unknown[0], text.type)).as_py()
            complaints.add(
                self.name,
                f"column {self.name!r} holds {unknown[0]!r} in row {first_row + row + 1:,}, which "
                "the training's data do not",
                rule="The model has no feature for it: change the text, or train on data with it",
                flags="--unknown_categories (unknown_categories=True in Python) takes it as none "
                "of the column's texts",
            )
        other = len(self._known) if self._unknown == "counted" else np.nan
        places = np.array([*(self._known.get(value, other) for value in texts), np.nan])
        indices = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
        values = places[indices]
        if self._unknown == "counted" and unknown:
            self.unknown_rows += int(np.count_nonzero(values == other))
            self.unknown_text = self.unknown_text or unknown[0]
        return values


def _as_text(column: pa.Array) -> pa.Array:
    """Returns numbers and flags as text files hold them: "1", "0.5", "True"."""
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "True", "False")
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return column.cast(pa.string())


def _parse_booleans(column: pa.Array, numbers: NumberFormat) -> Parsed:
    """Parses True and False in any capitals, and numbers."""
    text = column
    for word, value in _BOOLEANS.items():
        is_word = pc.equal(pc.utf8_lower(pc.utf8_trim_whitespace(text)), word)
        text = pc.if_else(is_word, str(int(value)), text)
    return parse_column(text, numbers)


def sorted_categories(features: Features) -> tuple[Features, Callable[[np.ndarray], np.ndarray]]:
    """Returns the features with sorted categories, and what renumbers rows [n, columns]."""
    columns = {name: place for place, name in enumerate(features.columns)}
    ordered, numbers = {}, {}
    for column, values in features.categories.items():
        order = np.argsort(np.array(values, object), kind="stable")
        ordered[column] = tuple(values[place] for place in order)
        numbers[columns[column]] = np.append(np.argsort(order), np.nan).astype(np.float32)

    def renumber(rows: np.ndarray) -> np.ndarray:
        rows = rows.copy() if numbers else rows
        for place, new in numbers.items():
            found = rows[:, place]
            rows[:, place] = new[np.where(np.isnan(found), len(new) - 1, found).astype(int)]
        return rows

    return Features(features.columns, ordered), renumber


def likely_ids(
    names: Sequence[str], parts: Sequence[np.ndarray], is_whole: np.ndarray
) -> Iterator[str]:
    """Yields the columns of whole numbers that differ in nearly every row.

    Of the rows, in parts [n, columns], at most 100,000 evenly spaced ones are compared.
    """
    count = sum(map(len, parts))
    step = -(-count // _MAX_COMPARED_ROWS)
    starts = itertools.accumulate(map(len, parts), initial=0)
    chosen = [part[-start % step :: step] for start, part in zip(starts, parts, strict=False)]
    compared = sum(map(len, chosen))
    whole = np.flatnonzero(is_whole)
    group = max(1, _COMPARED_NUMBERS // compared)
    for first in range(0, len(whole) if count >= _MIN_IDS else 0, group):
        places = whole[first : first + group]
        values = np.concatenate([rows[:, places] for rows in chosen])
        values.sort(axis=0)
        different = 1 + np.count_nonzero(np.diff(values, axis=0), axis=0)
        yield from (names[place] for place in places[different >= _ID_SHARE * compared])
