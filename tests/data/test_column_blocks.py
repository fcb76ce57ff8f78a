"""Columns that are parsed together give the numbers, counts and rows of each by itself."""

import numpy as np
import pyarrow as pa
import pytest

from trainer.data.files import column_blocks
from trainer.data.files.columns import ColumnReader, Complaints
from trainer.data.files.number_format import NumberFormat

TEXT = {
    "plain": ["1", " 2.5", "-3e2", "4"],
    "some": ["1", "NA", " ", "NA"],
    "none": ["", "", "", ""],
    "truth": ["True", "false", "TRUE", "?"],
    "plus": ["+1", "2", "NA", "4"],
    "other": ["7", "8", "9", "-"],
}
NUMBERS = {
    "whole": pa.array([1, 2, None, 4]),
    "all": pa.array([1, 2, 3, 2**40]),
    "small": pa.array([1, 2, 3, 4], pa.uint8()),
    "single": pa.array([1, None, np.nan, 0.1], pa.float32()),
    "double": pa.array([0.1, 2, 3, 1e300]),
    "twice": pa.array([None, None, None, 1.0]),
    "truth": pa.array([True, None, False, True]),
}


def read_both(columns, numbers):
    """Reads two blocks of columns at once and one by one; returns values and readers of each."""
    for at_once in (True, False):
        readers = [ColumnReader(k, c.type, numbers, onehot=False) for k, c in columns.items()]
        complaints, blocks = Complaints("own.csv"), []
        for first_row in (0, 4):
            if at_once:
                block = column_blocks.read(readers, columns, first_row, complaints)
            else:
                block = np.stack(
                    [r.read(columns[r.name], first_row, complaints) for r in readers], axis=1
                )
            blocks.append(block)
        complaints.raise_any()
        yield np.concatenate(blocks), readers


@pytest.mark.parametrize("decimal", [".", ","])
def test_columns_read_at_once_are_those_read_one_by_one(decimal):
    text = {k: pa.array([v.replace(".", decimal) for v in c]) for k, c in TEXT.items()}
    for columns in (text, NUMBERS, text | {f"n{k}": c for k, c in NUMBERS.items()}):
        (values, readers), (expected, others) = read_both(columns, NumberFormat(decimal))
        np.testing.assert_array_equal(values, expected)
        for reader, other in zip(readers, others, strict=True):
            assert reader.missing == other.missing, reader.name
            assert reader.first_missing == other.first_missing, reader.name
            assert (reader.is_boolean, reader.may_be_numbers) == (
                other.is_boolean,
                other.may_be_numbers,
            )
