"""Parses columns of text as numbers."""

import dataclasses
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.files.number_format import NumberFormat


@dataclasses.dataclass
class Parsed:
    """Holds the numbers of a column of text."""

    values: np.ndarray  # float64 [N], NaN where a number is missing or the text is none
    missing: Counter[str]  # how often each text stands for a missing number
    wrong: tuple[int, str] | None = None  # row and text of the first that is not a number
    wrong_count: int = 0


def parse_column(column: pa.Array, numbers: NumberFormat) -> Parsed:
    """Parses a column of text [N]."""
    text, missing = without_missing(column, numbers.missing)
    quick = quick_numbers(text, numbers)
    if quick is not None:
        return Parsed(quick, missing)
    # Thousands, +1 or no number: each different text is parsed by itself.
    encoded = text.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    values = np.full(len(texts) + 1, np.nan)  # the last for missing numbers
    is_wrong = np.zeros(len(texts) + 1, bool)
    for place, candidate in enumerate(texts):
        try:
            values[place] = numbers.parse(candidate)
        except ValueError:
            is_wrong[place] = True
    places = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(is_wrong[places])
    wrong = (int(rows[0]), texts[places[rows[0]]]) if len(rows) else None
    return Parsed(values[places], missing, wrong, len(rows))


def quick_numbers(text: pa.Array, numbers: NumberFormat) -> np.ndarray | None:
    """Returns float64 [N], NaN for null, if pyarrow can parse each of the trimmed texts."""
    if numbers.decimal == ",":
        if pc.any(pc.match_substring(text, ".")).as_py():
            return None
        text = pc.replace_substring(text, ",", ".")
    try:
        return text.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None


def without_missing(column: pa.Array, marks: tuple[str, ...]) -> tuple[pa.Array, Counter[str]]:
    """Returns trimmed text, null where it stands for a missing number; counts such texts."""
    text = pc.utf8_trim_whitespace(column)
    is_missing = pc.is_in(text, value_set=pa.array(marks, text.type))
    found: Counter[str] = Counter({"": column.null_count} if column.null_count else {})
    if not pc.any(is_missing).as_py():
        return text, found
    for entry in pc.value_counts(text.filter(is_missing)):
        found[entry["values"].as_py()] += entry["counts"].as_py()
    return pc.if_else(is_missing, pa.scalar(None, text.type), text), found
