"""Tables written at random in people's ways are read as pandas reads them, or refused in a line."""

import gzip

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.files.number_format import MISSING
from trainer.data.files.training_tables import ColumnRoles, read
from trainer.errors import UserError

SEPARATORS = (",", ";", "\t", "|")
WORDS = ("red", "green", "dark blue", "x=1", "ä")
NUMBERS = st.one_of(
    st.integers(-2000, 2_000_000).map(float),
    st.floats(-1e6, 1e6).map(lambda value: round(value, 3)),
)


@st.composite
def files(draw):
    """A file's bytes, its name, and how pandas reads it."""
    separator = draw(st.sampled_from(SEPARATORS))
    decimal = draw(st.sampled_from(".,"))
    count = draw(st.integers(1, 12))
    kinds = draw(st.lists(st.sampled_from(["number", "bool", "word"]), min_size=1, max_size=4))
    with_missing = draw(st.booleans()) and len(kinds) > 1  # a blank line is not a row
    columns = [draw(_cells(kind, count, decimal, with_missing)) for kind in kinds]
    names = [f"{kind} {place}" for place, kind in enumerate(kinds)]
    has_index, blanks = draw(st.booleans()), draw(st.booleans())
    if has_index:
        start = draw(st.integers(0, 3))
        columns, names = [[str(start + 2 * row) for row in range(count)], *columns], ["", *names]
    quoted = draw(st.booleans())
    pad = " " if blanks and not quoted else ""

    def line(cells):
        parts = [f'"{cell}"' if quoted or separator in cell else f"{pad}{cell}" for cell in cells]
        return separator.join(parts)

    lines = [line(names), *(line(row) for row in zip(*columns, strict=True))]
    has_comment = draw(st.booleans())
    if has_comment:
        lines.insert(0, "# written by hand")
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    content = (ending.join(lines) + ending).encode(encoding)
    suffix = draw(st.sampled_from([".csv", ".txt", ".csv.gz"]))
    content = gzip.compress(content) if suffix.endswith("gz") else content
    keys = {"sep": separator, "decimal": decimal, "encoding": encoding, "skipinitialspace": True}
    keys |= {"index_col": 0 if has_index else False, "skiprows": int(has_comment)}
    return content, f"own{suffix}", keys


@st.composite
def _cells(draw, kind, count, decimal, with_missing):
    values = {
        "number": NUMBERS.map(lambda value: f"{value:g}" if value.is_integer() else f"{value!r}"),
        "bool": st.sampled_from(["True", "False", "TRUE", "false"]),
        "word": st.sampled_from(WORDS),
    }[kind]
    cells = draw(st.lists(values, min_size=count, max_size=count))
    if kind == "number":
        cells = [cell.replace(".", decimal) for cell in cells]
    marks = st.none() | st.sampled_from(MISSING)
    replaced = draw(st.lists(marks, min_size=count, max_size=count)) if with_missing else []
    return [mark if mark is not None else cell
            for cell, mark in zip(cells, replaced or [None] * count, strict=True)]  # fmt: skip


def by_pandas(path, keys):
    """The features by pandas, with one-hot words in their order."""
    frame = pd.read_csv(path, **keys, na_values=list(MISSING), keep_default_na=False, dtype=str)
    rows = []
    for name, column in frame.items():
        present = column.dropna()
        if name.strip().startswith("number"):
            rows.append(column.str.replace(keys["decimal"], ".").astype(float))
        elif name.strip().startswith("bool"):
            rows.append(column.str.lower().map({"true": 1.0, "false": 0.0}))
        else:
            words = sorted(set(present)) or [None]  # a column of gaps
            rows += [(column == word).where(column.notna()) for word in words]
    return np.array([row.to_numpy(np.float32) for row in rows]).T


@settings(max_examples=200, deadline=None)
@given(files())
def test_a_table_is_read_as_pandas_reads_it_or_refused_with_a_way_out(tmp_path_factory, file):
    content, name, keys = file
    path = tmp_path_factory.mktemp("own") / name
    path.write_bytes(content)
    try:
        found = read([path], ColumnRoles(onehot=True, keep_missing=True))
    except UserError as error:
        assert any(part in str(error) for part in ("data.decimal", "data.header")), error
        return
    np.testing.assert_array_equal(found.tables[0].rows, by_pandas(path, keys))
