"""A user's tables are read as vectors, checked and filled in, or refused in one line."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tests.data.conftest import sizes_of, splits_of
from trainer.data.features import Features
from trainer.data.files import tables, training_tables
from trainer.data.files.open_table import open_table
from trainer.data.files.training_tables import ColumnRoles, Storage

COUNT = 60
NAMES = ("height", "weight", "age")


def columns(count=COUNT, seed=0):
    rows = np.random.default_rng(seed).normal(5, 3, (count, len(NAMES))).astype(np.float32)
    return dict(zip(NAMES, rows.T, strict=True))


def rows_of(columns):
    return np.stack(list(columns.values()), axis=1)


@pytest.fixture
def write(tmp_path):
    """Writes columns, or a text, and returns the path."""

    def write(content, file="own.csv"):
        path = tmp_path / file
        if isinstance(content, str):
            path.write_text(content)
        elif path.suffix == ".parquet":
            pyarrow.parquet.write_table(pa.table(content), path)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            options = pyarrow.csv.WriteOptions(delimiter=separator)
            pyarrow.csv.write_csv(pa.table(content), path, options)
        return path

    return write


@pytest.mark.parametrize("file", ["OWN.CSV", "own.tsv", "own.parquet"])
def test_columns_become_vectors_with_their_names(write, load, file):
    dropped: dict[str, Any] = {"name": ["someone"] * COUNT, "id": np.arange(COUNT)}
    other = columns(10, 1)
    in_another_order = {name: column[:10] for name, column in dropped.items()}
    in_another_order |= {name: other[name] for name in reversed(NAMES)}
    train, test = write(columns() | dropped, file), write(in_another_order, f"test-{file}")
    own = load(f"table:{train},{test}", validation_fraction=0.1, drop_columns=("name", "id"))
    assert sizes_of(own) == [54, 6, 10]
    read = np.concatenate([own.train.images, own.validation.images])
    expected = rows_of(columns())
    np.testing.assert_array_equal(read[np.lexsort(read.T)], expected[np.lexsort(expected.T)])
    np.testing.assert_array_equal(own.test.images, rows_of(other))
    assert own.train.images.dtype == np.float32
    assert own.train.labels is None
    assert own.inputs() == {"image_shape": [3], "feature_names": list(NAMES)}


@pytest.mark.parametrize("file", ["own.csv", "own.parquet"])
def test_labels_are_integers_or_words(write, file):
    numbers = np.arange(COUNT)
    content = {"number": numbers, "kind": [["rose", "iris", "lily"][n % 3] for n in numbers]}
    few = {"number": [7, 8], "kind": ["rose", "iris"]}  # keep the first table's numbers
    paths = [write(content, file), write(few, f"test-{file}")]
    words = training_tables.read(paths, ColumnRoles(label="kind"))
    assert words.class_names == ("iris", "lily", "rose")
    assert words.features.names == ("number",)
    np.testing.assert_array_equal(words.tables[0].labels, np.array([2, 0, 1])[numbers % 3])
    np.testing.assert_array_equal(words.tables[1].labels, [2, 0])

    path = write(content | {"height": numbers / 2}, file)
    integers = training_tables.read([path], ColumnRoles(label="number", drop=("kind",)))
    assert integers.class_names == ()
    np.testing.assert_array_equal(integers.tables[0].labels, numbers)
    np.testing.assert_array_equal(integers.tables[0].rows[:][:, 0], numbers / 2)


@pytest.mark.parametrize(
    ("train", "test", "names", "labels"),
    [
        (["ok"] * 4, ["ok", "scratch", "dent"], ("ok", "dent", "scratch"), [0, 2, 1]),
        ([0] * 4, [0, 7, 3], (), [0, 7, 3]),
    ],
)
@pytest.mark.parametrize("storage", [Storage(), Storage("records")])
def test_classes_of_the_test_table_alone_follow_the_training_classes(
    write, storage, train, test, names, labels
):
    paths = [
        write({"a": np.arange(len(kinds)), "kind": kinds}, f"{name}.csv")
        for name, kinds in (("train", train), ("test", test))
    ]
    read = training_tables.read(paths, ColumnRoles(label="kind"), storage=storage)
    assert read.class_names == names
    np.testing.assert_array_equal(read.tables[0].labels, 0)
    np.testing.assert_array_equal(read.tables[1].labels, labels)
    (note,) = read.notes
    assert str(paths[1]) in note
    assert all(str(name) in note for name in test[1:]) and str(train[0]) + "," not in note


@pytest.mark.parametrize(("file", "count"), [("own.csv", 130_000), ("own.parquet", 40_000)])
def test_a_table_larger_than_a_block_is_read_whole(write, refused, file, count):
    content = columns(count) | {"number": np.arange(count)}
    path = write(content, file)
    (table,) = training_tables.read([path], ColumnRoles(label="number")).tables
    np.testing.assert_array_equal(table.rows, rows_of(columns(count)))
    np.testing.assert_array_equal(table.labels, np.arange(count))
    blocks = list(tables.blocks(open_table(path), Features(NAMES[1:]), extra=["number"]))
    assert 1 < len(blocks) < 5
    found = np.concatenate([rows for rows, _ in blocks])
    np.testing.assert_array_equal(found, rows_of(columns(count))[:, 1:])
    assert [len(extra) for rows, (extra,) in blocks] == [len(rows) for rows, _ in blocks]

    size = table.rows[:].nbytes
    keys = ColumnRoles(label="number", keep_missing=True)
    storage = Storage("host", size - 1)
    assert "GiB of memory" in refused(training_tables.read, [path], keys, storage=storage)
    content["age"] = np.where(np.arange(count) == count - 1, np.nan, content["age"])
    line = refused(training_tables.read, [write(content, file)])
    assert "'age'" in line and f"in row {count:,})" in line and "data.impute" in line


@pytest.mark.parametrize(("how", "standardise"), [("mean", True), ("median", False)])
def test_missing_numbers_are_filled_in_by_the_training_split_alone(write, load, how, standardise):
    content = {name: column.astype(np.float64) for name, column in columns().items()}
    content["age"] += 1e6
    content["age"][::4] = np.nan
    test = {name: 100 + column for name, column in columns(10, 1).items()}
    test["age"][3] = np.nan
    name = f"table:{write(content)},{write(test, 'test.csv')}"
    own, raw = load(name, impute=how, standardise=standardise), load(name, impute=how)
    # The heights, of which none is missing, tell which rows are in the training split.
    rows = rows_of(content).astype(np.float32)
    train = rows[np.isin(rows[:, 0], raw.train.images[:, 0])]
    expected = (np.nanmean if how == "mean" else np.nanmedian)(train[:, 2].astype(float))
    assert own.fill[2] == pytest.approx(expected, rel=1e-12)
    assert own.inputs()["fill"] == own.fill.tolist()
    assert raw.test.images[3, 2] == np.float32(expected)
    for split in splits_of(own):
        assert np.isfinite(split.images).all()


def test_a_column_without_a_number_cannot_be_filled_in(write, load, refused):
    path = write({"a": [1.0] * 20, "b": [None] * 20}, "own.parquet")
    assert "'b' has none" in refused(load, f"table:{path}", impute="mean")


def test_numbers_are_taken_as_people_write_them(write):
    path = write('a,b,c\n1, 2.5 ,"3"\n+1,-2e3,.5\n\n0,00,1.\n,NaN,NA\nnull,1,2\n')
    (table,) = training_tables.read([path], ColumnRoles(keep_missing=True)).tables
    nan = np.nan
    expected = [[1, 2.5, 3], [1, -2000, 0.5], [0, 0, 1], [nan, nan, nan], [nan, 1, 2]]
    np.testing.assert_array_equal(table.rows, expected)


def test_numbers_of_every_type_of_parquet_are_taken(write):
    content = {
        "whole": pa.array([1, 2], pa.int8()),
        "half": pa.array(np.array([0.5, 1.5], np.float16)),
        "truth": pa.array([True, False]),
        "money": pa.array([1, 2]).cast(pa.decimal128(21, 2)),
    }
    (table,) = training_tables.read([write(content, "own.parquet")]).tables
    np.testing.assert_array_equal(table.rows, [[1, 0.5, 1, 1], [2, 1.5, 0, 2]])


LABELLED = ColumnRoles(label="kind")
TWO_CLASSES = "a,b,kind\n1,2,x\n3,4,y\n"


@pytest.mark.parametrize(
    ("contents", "columns", "named"),
    [
        (["a,b\n1,2\n"], ColumnRoles(label="c"), "no column 'c'; its columns are 'a', 'b'"),
        ([TWO_CLASSES], ColumnRoles(label="knd"), "did you mean 'kind'"),
        ([TWO_CLASSES], ColumnRoles(drop=("a, kind",)), "are written \"('a', 'kind')\""),
        ([TWO_CLASSES], ColumnRoles(drop=("a", "b", "kind")), "no column but 'a', 'b', 'kind'"),
        (["a,kind\n1,x\n2,\n"], LABELLED, "nothing in row 2, column 'kind'"),
        (['a,kind\n1,x\n2," "\n'], LABELLED, "nothing in row 2, column 'kind'"),
        ([{"a": [1, 2], "b": ["x", "y"]}], ColumnRoles(), "'b'"),
        ([{"a": [1.0, 2.0], "b": [2.0, None]}], ColumnRoles(), "'b' has missing values: 1"),
        ([{"a": [1.0, 2.0], "b": [2.0, np.inf]}], ColumnRoles(), "'b' holds inf in row 2"),
        ([TWO_CLASSES, "a,kind\n1,x\n"], LABELLED, "'b'"),
        ([TWO_CLASSES, "a,b,c,kind\n1,2,3,x\n"], LABELLED, "'c'"),
        ([TWO_CLASSES, "a,b,kind\n1,2,0\n"], LABELLED, "both words"),
    ],
)
def test_a_table_that_does_not_serve_is_refused(write, refused, contents, columns, named):
    paths = [
        write(content, f"{number}.csv" if isinstance(content, str) else f"{number}.parquet")
        for number, content in enumerate(contents)
    ]
    line = refused(training_tables.read, paths, columns)
    assert named in line
    assert str(paths[-1]) in line


def test_a_file_that_is_no_table_is_refused(tmp_path, write, refused):
    write("not parquet at all, but text", "own.parquet")
    for file, named in (
        *(("none.csv", "No such file"), ("none.parquet", "No such file")),
        *(("own.xyz", ".csv, .tsv, .txt"), ("own.parquet", "Parquet magic bytes")),
    ):
        line = refused(training_tables.read, [tmp_path / file])
        assert named in line
        assert str(tmp_path / file) in line
