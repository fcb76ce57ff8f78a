"""Reads a column of labels: integers as they are, or words, numbered in their sorted order."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.files.open_table import is_text
from trainer.errors import UserError, require

MAX_TEXT_BYTES = 4096  # of a label or a file name


def check_column(path: Path, name: str, column: pa.Array, first_row: int) -> pa.Array:
    """Returns a column of labels; checks that none is missing and that no text is too long."""
    missing = column.is_null()
    if is_text(column.type) and not isinstance(column, pa.DictionaryArray):
        missing = pc.or_kleene(missing, pc.equal(pc.utf8_trim_whitespace(column), ""))
    if pc.any(missing).as_py():
        row = first_row + pc.index(missing, pa.scalar(True)).as_py()
        raise UserError(f"{path} holds nothing in row {row + 1:,}, column {name!r}")
    is_encoded = isinstance(column, pa.DictionaryArray)
    texts = column.dictionary if is_encoded else column
    if is_text(texts.type) and len(texts):
        longest = pc.max(pc.binary_length(texts)).as_py()
        require(
            longest <= MAX_TEXT_BYTES,
            f"the column {name!r} of {path} holds a text of {longest:,} bytes; at most "
            f"{MAX_TEXT_BYTES:,} are allowed",
        )
    return column.dictionary_decode() if is_encoded else column


@dataclasses.dataclass(frozen=True)
class Labels:
    """Holds the labels of a table: integers, or indices of words."""

    path: Path
    column: str
    values: np.ndarray  # int64 [N]
    words: tuple[str, ...]  # (): the labels are integers

    @classmethod
    def of(cls, path: Path, column: str, values: pa.ChunkedArray) -> "Labels":
        """Takes the values [N] of a column: whole numbers, True and False, or words.

        Raises:
          UserError: the values are of another type.
        """
        encoded = values.dictionary_encode().unify_dictionaries().chunks
        found = encoded[0].dictionary.to_pylist()
        indices = np.concatenate([chunk.indices for chunk in encoded]).astype(np.int64)
        whole = [_whole_number(label) for label in found]
        if None not in whole:
            return cls(path, column, np.array(whole, np.int64)[indices], ())
        words = [str(label).strip() if isinstance(label, str | bool) else "" for label in found]
        wrong = [label for label, word in zip(found, words, strict=True) if not word]
        require(
            not wrong,
            f"the labels of {path}, its column {column!r}, must be whole numbers or words; "
            f"{wrong[0] if wrong else ''!r} is neither",
        )
        return cls(path, column, *_merge(words, indices))

    def extend(self, class_names: tuple[str, ...] | None, first: Path) -> tuple[str, ...]:
        """Returns the class names of the tables before, then the words that these lack, sorted.

        `class_names` is None before the first table.

        Raises:
          UserError: the labels of the first table are of the other kind.
        """
        known = class_names or ()
        require(
            class_names is None or bool(self.words) == bool(known),
            f"the labels of {self.path}, its column {self.column!r}, and the labels of {first} "
            "must both be whole numbers, or both words",
        )
        return (*known, *sorted(set(self.words) - set(known)))

    def indices(self, class_names: tuple[str, ...]) -> np.ndarray:
        """Returns int64 [N]: the integers, or each word's index among the class names."""
        if not class_names:
            return self.values
        places = {name: place for place, name in enumerate(class_names)}
        return np.array([places[word] for word in self.words], np.int64)[self.values]


def _merge(words: list[str], indices: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Gives words that differ in the blanks around them one index."""
    distinct = tuple(dict.fromkeys(words))
    places = np.array([distinct.index(word) for word in words], np.int64)
    return places[indices], distinct


def _whole_number(label: object) -> int | None:
    """Returns the number if a label is whole, as 1, 1.0 or "1.0"; else None."""
    if isinstance(label, bool):
        return None
    try:
        number = float(label)  # type: ignore[arg-type]
        whole = int(label) if isinstance(label, int) else int(number)
    except (TypeError, ValueError, OverflowError):
        return None
    return whole if math.isfinite(number) and number == whole and abs(whole) < 2**63 else None
