"""A user's tables of numbers: read, checked, filled in, and trained on."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from trainer import data
from trainer.config import make_data
from trainer.data.files import tables
from trainer.errors import UserError
from trainer.run import restore, workdir
from trainer.train import train

COUNT = 60
NAMES = ("height", "weight", "age")


def columns(count=COUNT, seed=0):
    rows = np.random.default_rng(seed).normal(5, 3, (count, len(NAMES))).astype(np.float32)
    return dict(zip(NAMES, rows.T, strict=True))


@pytest.fixture
def save(tmp_path):
    """Writes columns, or the lines of a text, and names them as data.name does."""

    def save(content, file="own.csv"):
        path = tmp_path / file
        if isinstance(content, str):
            path.write_text(content)
        elif path.suffix == ".parquet":
            pyarrow.parquet.write_table(pa.table(content), path)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            options = pyarrow.csv.WriteOptions(delimiter=separator)
            pyarrow.csv.write_csv(pa.table(content), path, options)
        return f"table:{path}"

    return save


def load(name, *, validation_fraction=0.1, image_size=0, **settings):
    common = {"image_size": image_size, "validation_fraction": validation_fraction}
    return data.load(make_data(name, **common, **settings))


def in_order(dataset):
    rows = np.concatenate([part.images for part in (dataset.train, dataset.validation)])
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("file", ["own.csv", "own.tsv", "own.parquet", "OWN.CSV"])
def test_columns_become_vectors_with_their_names(save, file):
    content = columns()
    own = load(save(content, file) + "," + save(columns(10, 1), f"test-{file}")[6:])
    assert own.image_shape == (3,)
    assert [len(own.train), len(own.validation), len(own.test)] == [54, 6, 10]
    rows = np.stack(list(content.values()), axis=1)
    np.testing.assert_array_equal(in_order(own), rows[np.lexsort(rows.T)])
    np.testing.assert_array_equal(own.test.images, np.stack(list(columns(10, 1).values()), 1))
    assert own.train.images.dtype == np.float32
    assert own.train.labels is None
    assert own.inputs() == {"image_shape": [3], "feature_names": list(NAMES)}


def test_a_test_part_is_cut_where_there_is_one_table(save):
    own = load(save(columns()))
    assert [len(own.train), len(own.validation), len(own.test)] == [43, 5, 12]


@pytest.mark.parametrize("file", ["own.csv", "own.parquet"])
def test_labels_are_integers_or_words(save, file):
    numbers = np.arange(COUNT)
    content = {"number": numbers, "kind": [["rose", "iris", "lily"][n % 3] for n in numbers]}
    words = load(save(content, file), label_column="kind")
    assert words.class_names == ("iris", "lily", "rose")
    assert words.train.labels is not None
    expected = np.array([2, 0, 1])[words.train.images[:, 0].astype(int) % 3]
    np.testing.assert_array_equal(words.train.labels, expected)
    assert words.feature_names == ("number",)

    content["height"] = numbers / 2
    integers = load(save(content, file), label_column="number", drop_columns="kind")
    assert integers.class_names == ()
    np.testing.assert_array_equal(integers.test.labels, 2 * integers.test.images[:, 0])


def test_the_columns_of_the_other_table_may_be_in_another_order(save):
    other = {name: columns(10, 1)[name] for name in reversed(NAMES)}
    own = load(save(columns()) + "," + save(other, "test.csv")[6:])
    np.testing.assert_array_equal(own.test.images, np.stack(list(columns(10, 1).values()), 1))


def test_columns_can_be_left_out(save):
    content = columns() | {"name": ["someone"] * COUNT, "id": np.arange(COUNT)}
    assert load(save(content), drop_columns="name, id").feature_names == NAMES


def test_a_table_larger_than_a_block_is_read_whole(save, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(tables, "_PARQUET_ROWS", 7)
    content = columns()
    rows = np.stack(list(content.values()), axis=1)
    for file in ("own.csv", "own.parquet"):
        (part,) = tables.read([save_path(save(content, file))]).tables
        np.testing.assert_array_equal(part.rows, rows)
        found = [block for block, _ in tables.blocks(save_path(save(content, file)), NAMES[1:])]
        assert len(found) > 5
        np.testing.assert_array_equal(np.concatenate(found), rows[:, 1:])
    late = {"a": [1.0] * 50 + [np.nan], "b": [1.0] * 51}
    with pytest.raises(UserError, match="in row 51, column 'a'"):
        load(save(late))


def save_path(name):
    return Path(name.removeprefix("table:"))


@pytest.mark.parametrize("text", ["", "NaN", "NA", "null"])
def test_a_missing_number_is_refused_with_its_place(save, text):
    with pytest.raises(UserError) as error:
        load(save(f"a,b\n1,2\n3,{text}\n"))
    assert "own.csv has no number in row 2, column 'b'; in a training, data.impute=mean" in str(
        error.value
    )
    assert "\n" not in str(error.value)


def test_a_missing_number_of_parquet_is_refused_with_its_place(save):
    for missing in (None, np.nan):
        with pytest.raises(UserError, match="has no number in row 3, column 'b'"):
            load(save({"a": [1, 2, 3], "b": [1.0, 2.0, missing]}, "own.parquet"))


@pytest.mark.parametrize("how", ["mean", "median"])
@pytest.mark.parametrize("standardise", [False, True])
def test_missing_numbers_are_filled_in_by_the_training_part_alone(save, how, standardise):
    content = {name: column.astype(np.float64) for name, column in columns().items()}
    content["age"][::4] = np.nan
    test = {name: 100 + column for name, column in columns(10, 1).items()}
    test["age"][3] = np.nan
    name = save(content) + "," + save(test, "test.csv")[6:]
    own = load(name, impute=how, standardise=standardise)
    raw = load(name, impute=how)
    # What was whole tells which rows were trained on.
    rows = np.stack(list(content.values()), axis=1).astype(np.float32)
    trained_on = rows[np.isin(rows[:, 0], raw.train.images[:, 0])]
    expected = (np.nanmean if how == "mean" else np.nanmedian)(trained_on[:, 2].astype(float))
    assert own.fill is not None
    assert own.fill[2] == pytest.approx(expected)
    assert raw.test.images[3, 2] == np.float32(expected)
    for part in (own.train, own.validation, own.test):
        assert np.isfinite(part.images).all()
    assert own.inputs()["fill"] == own.fill.tolist()


def test_a_column_without_a_number_cannot_be_filled_in(save):
    with pytest.raises(UserError, match=r"needs a number in each column .*; 'b' has none"):
        load(save({"a": [1.0] * 20, "b": [None] * 20}), impute="mean")


HEADER = "a,b\n"
ROWS = HEADER + "1,2\n" * 20


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (HEADER, {}, "has no row"),
        ("", {}, "cannot be read as a table (Empty CSV file)"),
        ("1,2\n3,4\n", {}, "has no header: its first row is 1, 2; it must name the columns"),
        ("a,\n1,2\n", {}, "column 2 of {} has no name in the header"),
        ("a,a\n1,2\n", {}, "two columns of {} have the same name 'a'"),
        (HEADER + "1,2\n3\n", {}, "cannot be read as a table (CSV parse error: Expected 2 columns"),
        (HEADER + "1,2\n3,Rome\n", {}, "holds 'Rome' in row 2, column 'b', which is no number"),
        (HEADER + "1,2\n-inf,3\n", {}, "holds -inf in row 2, column 'a'; only finite"),
        (HEADER + "1,2\n3,1e39\n", {}, "holds 1e+39 in row 2, column 'b'; only finite"),
        (ROWS, {"label_column": "c"}, "has no column 'c'; its columns are a, b"),
        (ROWS.replace("b", "kind"), {"label_column": "knd"}, "no column 'knd'; did you mean 'kind"),
        (ROWS, {"drop_columns": "a,b"}, "has no column but 'a', 'b'"),
        (ROWS, {"label_column": "b"}, "its column 'b', are all alike"),
        (HEADER + "1,x\n2,\n", {"label_column": "b"}, "holds nothing in row 2, column 'b'"),
        (HEADER + "1,0.5\n2,1.5\n", {"label_column": "b"}, "integers or words; '0.5' is neither"),
        (ROWS, {"impute": "zero"}, "data.impute='zero' is not known; allowed: mean, median, or ''"),
        (ROWS, {"image_size": 8}, "data.image_size=8 is not allowed; the rows of a table are v"),
        (ROWS, {"memory_gib": 1e-9}, "holds more than the 0.0 GiB of memory"),
        (ROWS, {"placement": "records"}, "data.placement='records' needs files of TFDS or a fold"),
        (HEADER + "1,2\n", {}, "1 examples cannot give up a share"),
    ],
)
def test_a_table_that_does_not_serve_is_told_in_one_line(save, text, settings, message):
    name = save(text)
    with pytest.raises(UserError) as error:
        load(name, **settings)
    assert message.format(save_path(name)) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("test", "settings", "message"),
    [
        ("a,kind\n1,x\n", {}, "test.csv has 1 columns of numbers, where {} has 2; 'b' is in one"),
        ("a,b,c,kind\n1,2,3,x\n", {}, "has 3 columns of numbers, where {} has 2; 'c' is in one"),
        ("a,b\n1,2\n", {}, "test.csv has no column 'kind'"),
        ("a,b,kind\n1,2,z\n", {}, "test.csv has the label 'z', which {} has not"),
        ("a,b,kind\n1,2,0\n", {}, "must be of the same kind as those of {}: integers, or words"),
        ("a,b,kind\n1,,x\n", {}, "test.csv has no number in row 1, column 'b'"),
    ],
)
def test_a_test_table_unlike_the_other_is_told_in_one_line(save, test, settings, message):
    name = save("a,b,kind\n" + "1,2,x\n3,4,y\n" * 10)
    with pytest.raises(UserError) as error:
        load(name + "," + save(test, "test.csv")[6:], label_column="kind", **settings)
    assert message.format(save_path(name)) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("table", "'table:' is not allowed; it is written table:FILE or table:TRAIN,TEST"),
        ("table:a.csv,b.csv,c.csv", "is not allowed; it is written table:FILE"),
        ("table:none.csv", "none.csv cannot be read: No such file or directory"),
        ("table:none.parquet", "none.parquet cannot be read: No such file or directory"),
        ("table:own.xlsx", "own.xlsx is no table; its name must end in .csv, .tsv, .parquet"),
    ],
)
def test_a_name_that_is_no_table_gets_one_line(name, message):
    with pytest.raises(UserError) as error:
        load(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_or_unfit_parquet_file_is_told_in_one_line(save):
    with pytest.raises(UserError, match=r"cannot be read as a table .Parquet magic bytes"):
        load(save("not parquet at all, but text", "own.parquet"))
    with pytest.raises(
        UserError, match=r"'b' of .* is of type string, not of numbers; in a training, d"
    ):
        load(save({"a": [1, 2], "b": ["x", "y"]}, "own.parquet"))


def test_numbers_are_taken_as_people_write_them(save):
    name = save('a,b,c\n1, 2.5 ,"3"\n+1,-2e3,.5\n\n0,00,1.\n')
    (part,) = tables.read([save_path(name)]).tables
    np.testing.assert_array_equal(part.rows, [[1, 2.5, 3], [1, -2000, 0.5], [0, 0, 1]])


def test_numbers_of_every_type_of_parquet_are_taken(save):
    content = {
        "whole": pa.array([1, 2], pa.int8()),
        "half": pa.array(np.array([0.5, 1.5], np.float16)),
        "truth": pa.array([True, False]),
        "money": pa.array([1, 2]).cast(pa.decimal128(21, 2)),
    }
    (part,) = tables.read([save_path(save(content, "own.parquet"))]).tables
    np.testing.assert_array_equal(part.rows, [[1, 0.5, 1, 1], [2, 1.5, 0, 2]])


def test_a_run_on_a_table_notes_what_its_columns_are(digits_config, save, tmp_path):
    content = columns() | {"kind": [["rose", "iris"][number % 2] for number in range(COUNT)]}
    digits_config.data.name = save(content)
    digits_config.data.update({"label_column": "kind", "impute": "mean", "standardise": True})
    digits_config.model.output_activation = "linear"
    digits_config.model.code_size = 2
    digits_config.batch_size = 8
    digits_config.num_epochs = 1.0
    run = tmp_path / "run"
    train(digits_config, str(run))
    inputs = workdir.read(run).inputs
    assert inputs is not None
    assert inputs["feature_names"] == list(NAMES)
    assert inputs["class_names"] == ["iris", "rose"]
    assert inputs["fill"] == pytest.approx(inputs["mean"], rel=1e-6)
    assert restore.load(run).dataset.feature_names == NAMES
