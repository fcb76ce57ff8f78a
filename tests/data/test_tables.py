"""A user's tables are read as vectors, checked and filled in, or refused in one line."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from trainer.data.files import tables

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


@pytest.mark.parametrize("file", ["own.csv", "own.tsv", "own.parquet", "OWN.CSV"])
def test_columns_become_vectors_with_their_names(write, load, file):
    train, test = write(columns(), file), write(columns(10, 1), f"test-{file}")
    own = load(f"table:{train},{test}", validation_fraction=0.1)
    assert [len(own.train), len(own.validation), len(own.test)] == [54, 6, 10]
    read = np.concatenate([own.train.images, own.validation.images])
    expected = rows_of(columns())
    np.testing.assert_array_equal(read[np.lexsort(read.T)], expected[np.lexsort(expected.T)])
    np.testing.assert_array_equal(own.test.images, rows_of(columns(10, 1)))
    assert own.train.images.dtype == np.float32
    assert own.train.labels is None
    assert own.inputs() == {"image_shape": [3], "feature_names": list(NAMES)}


@pytest.mark.parametrize("file", ["own.csv", "own.parquet"])
def test_labels_are_integers_or_words(write, file):
    numbers = np.arange(COUNT)
    content = {"number": numbers, "kind": [["rose", "iris", "lily"][n % 3] for n in numbers]}
    words = tables.read([write(content, file)], label_column="kind")
    assert words.class_names == ("iris", "lily", "rose")
    assert words.feature_names == ("number",)
    np.testing.assert_array_equal(words.tables[0].labels, np.array([2, 0, 1])[numbers % 3])

    content["height"] = numbers / 2
    path = write(content, file)
    integers = tables.read([path], label_column="number", drop_columns=["kind"])
    assert integers.class_names == ()
    np.testing.assert_array_equal(integers.tables[0].labels, numbers)
    np.testing.assert_array_equal(integers.tables[0].rows[:, 0], numbers / 2)


def test_the_columns_of_the_other_table_may_be_in_another_order(write):
    other = {name: columns(10, 1)[name] for name in reversed(NAMES)}
    _, test = tables.read([write(columns()), write(other, "test.csv")]).tables
    np.testing.assert_array_equal(test.rows, rows_of(columns(10, 1)))


def test_words_of_the_other_table_have_the_numbers_of_the_first(write):
    paths = [write("a,kind\n1,x\n2,y\n3,z\n"), write("a,kind\n1,z\n2,x\n", "test.csv")]
    _, test = tables.read(paths, label_column="kind").tables
    np.testing.assert_array_equal(test.labels, [2, 0])


def test_columns_are_dropped_by_their_names(write, load):
    content = columns() | {"name": ["someone"] * COUNT, "id": np.arange(COUNT)}
    assert load(f"table:{write(content)}", drop_columns="name, id").feature_names == NAMES


@pytest.mark.parametrize("file", ["own.csv", "own.parquet"])
def test_a_table_larger_than_a_block_is_read_whole(write, refused, file):
    count = 150_000
    content = columns(count) | {"number": np.arange(count)}
    path = write(content, file)
    (table,) = tables.read([path], label_column="number").tables
    np.testing.assert_array_equal(table.rows, rows_of(columns(count)))
    np.testing.assert_array_equal(table.labels, np.arange(count))
    blocks = list(tables.blocks(path, NAMES[1:], extra=["number"]))
    assert len(blocks) > 1
    found = np.concatenate([rows for rows, _ in blocks])
    np.testing.assert_array_equal(found, rows_of(columns(count))[:, 1:])
    assert [len(extra) for rows, (extra,) in blocks] == [len(rows) for rows, _ in blocks]

    content["age"] = content["age"].copy()
    content["age"][-1] = np.nan
    assert "in row 150,000, column 'age'" in refused(tables.read, [write(content, file)])
    size = table.rows.nbytes
    keys = {"label_column": "number", "keep_missing": True, "allowed_bytes": size - 1}
    assert "GiB of memory" in refused(tables.read, [path], **keys)


@pytest.mark.parametrize("how", ["mean", "median"])
@pytest.mark.parametrize("standardise", [False, True])
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
    for split in (own.train, own.validation, own.test):
        assert np.isfinite(split.images).all()


def test_a_column_without_a_number_cannot_be_filled_in(write, load, refused):
    path = write({"a": [1.0] * 20, "b": [None] * 20}, "own.parquet")
    assert "'b' has none" in refused(load, f"table:{path}", impute="mean")


@pytest.mark.parametrize("text", ["", "NaN", "NA", "null"])
def test_a_missing_number_of_a_text_is_kept_or_refused(write, refused, text):
    path = write(f"a,b\n1,2\n3,{text}\n")
    (table,) = tables.read([path], keep_missing=True).tables
    np.testing.assert_array_equal(table.rows, [[1, 2], [3, np.nan]])
    line = refused(tables.read, [path])
    assert "own.csv has no number in row 2, column 'b'" in line
    assert "data.impute" in line


LABELLED = {"label_column": "kind"}
TWO_CLASSES = "a,b,kind\n1,2,x\n3,4,y\n"


@pytest.mark.parametrize(
    ("text", "settings", "named"),
    [
        ("a,b\n", {}, "has no row"),
        ("", {}, "Empty CSV file"),
        ("1,2\n3,4\n", {}, "no header: its first row is 1, 2"),
        ("a,\n1,2\n", {}, "column 2 of"),
        ("a,a\n1,2\n", {}, "the same name 'a'"),
        ("a,b\n1,2\n3\n", {}, "Expected 2 columns"),
        ("a,b\n1,2\n3,Rome\n", {}, "'Rome' in row 2, column 'b'"),
        ("a,b\n1,2\n-inf,3\n", {}, "-inf in row 2, column 'a'"),
        ("a,b\n1,2\n3,1e39\n", {}, "1e+39 in row 2, column 'b'"),
        ("a,b\n1,2\n", {"label_column": "c"}, "no column 'c'; its columns are a, b"),
        (TWO_CLASSES, {"label_column": "knd"}, "did you mean 'kind'"),
        (TWO_CLASSES, {"drop_columns": ["a", "b", "kind"]}, "no column but 'a', 'b', 'kind'"),
        ("a,kind\n1,x\n2,x\n", LABELLED, "its column 'kind'"),
        ("a,kind\n1,x\n2,\n", LABELLED, "nothing in row 2, column 'kind'"),
        ("a,kind\n1,.5\n2,1.5\n", LABELLED, "'.5' is neither"),
        (TWO_CLASSES, LABELLED | {"allowed_bytes": 10}, "GiB of memory"),
    ],
)
def test_a_table_that_does_not_serve_is_refused(write, refused, text, settings, named):
    path = write(text)
    line = refused(tables.read, [path], **settings)
    assert named in line
    assert str(path) in line


@pytest.mark.parametrize(
    ("test", "named"),
    [
        ("a,kind\n1,x\n", "'b'"),
        ("a,b,c,kind\n1,2,3,x\n", "'c'"),
        ("a,b\n1,2\n", "no column 'kind'"),
        ("a,b,kind\n1,2,z\n", "the label 'z'"),
        ("a,b,kind\n1,2,0\n", "integers, or words"),
        ("a,b,kind\n1,,x\n", "row 1, column 'b'"),
    ],
)
def test_a_test_table_unlike_the_other_is_refused(write, refused, test, named):
    paths = [write(TWO_CLASSES), write(test, "test.csv")]
    line = refused(tables.read, paths, label_column="kind")
    assert named in line
    assert str(paths[1]) in line


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("none.csv", None, "No such file"),
        ("none.parquet", None, "No such file"),
        ("own.xlsx", None, ".csv, .tsv, .parquet"),
        ("own.parquet", "not parquet at all, but text", "Parquet magic bytes"),
        ("own.parquet", {"a": [1, 2], "b": ["x", "y"]}, "'b'"),
        ("own.parquet", {"a": [1.0, 2.0], "b": [2.0, None]}, "row 2, column 'b'"),
        ("own.parquet", {"a": [1.0, 2.0], "b": [2.0, np.nan]}, "row 2, column 'b'"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path, write, refused, file, content, named):
    if content is not None:
        write(content, file)
    line = refused(tables.read, [tmp_path / file])
    assert named in line
    assert str(tmp_path / file) in line


def test_numbers_are_taken_as_people_write_them(write):
    path = write('a,b,c\n1, 2.5 ,"3"\n+1,-2e3,.5\n\n0,00,1.\n')
    (table,) = tables.read([path]).tables
    np.testing.assert_array_equal(table.rows, [[1, 2.5, 3], [1, -2000, 0.5], [0, 0, 1]])


def test_numbers_of_every_type_of_parquet_are_taken(write):
    content = {
        "whole": pa.array([1, 2], pa.int8()),
        "half": pa.array(np.array([0.5, 1.5], np.float16)),
        "truth": pa.array([True, False]),
        "money": pa.array([1, 2]).cast(pa.decimal128(21, 2)),
    }
    (table,) = tables.read([write(content, "own.parquet")]).tables
    np.testing.assert_array_equal(table.rows, [[1, 0.5, 1, 1], [2, 1.5, 0, 2]])


def test_the_inputs_of_a_run_tell_of_its_columns(write, load):
    content = columns() | {"kind": [["rose", "iris"][number % 2] for number in range(COUNT)]}
    keys = {"label_column": "kind", "impute": "mean", "standardise": True}
    inputs = load(f"table:{write(content)}", **keys).inputs()
    assert inputs["feature_names"] == list(NAMES)
    assert inputs["class_names"] == ["iris", "rose"]
    assert inputs["fill"] == pytest.approx(inputs["mean"], rel=1e-6)


def test_names_of_columns_stand_between_commas():
    assert tables.split_names(" a b, c,,d ") == ["a b", "c", "d"]
    assert tables.split_names("") == []
