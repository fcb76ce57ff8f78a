"""Text files in the ways that people write them, each with the right values or a way out."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from trainer.data.files.text_format import TextFormat
from trainer.data.files.training_tables import ColumnRoles, read
from trainer.errors import UserError

NAN = np.nan
KEEP = ColumnRoles(keep_missing=True)
ONEHOT = ColumnRoles(onehot=True)

# What a file holds, how it is to be read, and its features and rows.
RIGHT = {
    "an index that pandas wrote": (",a,b\n0,1,2\n7,3,4\n", ColumnRoles(), "a b", [[1, 2], [3, 4]]),
    "a blank last column": ("a,b,\n1,2,\n3,4,\n", ColumnRoles(), "a b", [[1, 2], [3, 4]]),
    "True and False": ("a,ok\n1,True\n2,fALSE\n", ColumnRoles(), "a ok", [[1, 1], [2, 0]]),
    "semicolons": ("a;b\n1;2\n3;4\n", ColumnRoles(), "a b", [[1, 2], [3, 4]]),
    "tabs": ("a\tb\n1\t2\n3\t4\n", ColumnRoles(), "a b", [[1, 2], [3, 4]]),
    "bars": ("a|b\n1|2\n3|4\n", ColumnRoles(), "a b", [[1, 2], [3, 4]]),
    "decimal commas": ("a;b\n1,5;2\n3;4,25\n", ColumnRoles(), "a b", [[1.5, 2], [3, 4.25]]),
    "European thousands": ("a;b\n1.234,5;2\n3;1.000\n", ColumnRoles(), "a b",
                           [[1234.5, 2], [3, 1000]]),
    "thousands in quotes": ('a,b\n"1,234.5",2\n3,4\n', ColumnRoles(), "a b", [[1234.5, 2], [3, 4]]),
    "thousands by spaces": ("a;b\n1 234,5;2\n3;4\n", ColumnRoles(), "a b", [[1234.5, 2], [3, 4]]),
    "a plus and an exponent": ("a,b\n+1,2e3\n3,4\n", ColumnRoles(), "a b", [[1, 2000], [3, 4]]),
    "blanks around everything": (" a , b\n 1 , 2\n3,4 \n", ColumnRoles(), "a b", [[1, 2], [3, 4]]),
    "a comma in a name": ('a,"b, c"\n1,2\n3,4\n', ColumnRoles(drop=("b, c",)), "a", [[1], [3]]),
    "comments above": ("# by me\n# today\na,b\n1,2\n", ColumnRoles(), "a b", [[1, 2]]),
    "comments between": ("a,b\n1,2\n# more\n3,4\n", ColumnRoles(), "a b", [[1, 2], [3, 4]]),
    "a header that begins as a comment": ("#a\tb\n1\t2\n", ColumnRoles(), "#a b", [[1, 2]]),
    "names that count": ("0,1\n1,2\n3,4\n", ColumnRoles(), "0 1", [[1, 2], [3, 4]]),
    "years as names": ("city,2001,2002\n5,1,2\n6,3,4\n", ColumnRoles(), "city 2001 2002",
                       [[5, 1, 2], [6, 3, 4]]),
    "no header": ("5.1,3,x\n4.9,2,x\n", ColumnRoles(label="column_3"), "column_1 column_2",
                  [[5.1, 3], [4.9, 2]]),
    "missing marks": ("a,b\n1,?\n-,2\n , <NA> \n", KEEP, "a b", [[1, NAN], [NAN, 2], [NAN, NAN]]),
    "categories": ("a,c\n1,x\n2,y\n3,x\n", ONEHOT, "a c=x c=y", [[1, 1, 0], [2, 0, 1], [3, 1, 0]]),
    "a category like a number": ("c\n5\nb\n5\n", ONEHOT, "c=5 c=b", [[1, 0], [0, 1], [1, 0]]),
    "words after True and False": ("c\ntrue\nfalse\nmaybe\n", ONEHOT, "c=false c=maybe c=true",
                                   [[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "a missing category": ("a,c\n1,x\n2,\n", ColumnRoles(onehot=True, keep_missing=True), "a c=x",
                           [[1, 1], [2, NAN]]),
    "carriage returns": ("a,b\r1,2\r3,4\r", ColumnRoles(), "a b", [[1, 2], [3, 4]]),
    "a quoted line break": ('a,"b\nc"\n1,2\n', ColumnRoles(), "a b\nc", [[1, 2]]),
}  # fmt: skip

# What a file holds, and what the one line must name.
WRONG = {
    "a comma of either meaning": ("a;b\n1,234;5\n", ["1,234", "data.decimal"]),
    "both decimal marks": ("a;b\n1,5;2.5\n", ["1,5", "2.5", "data.decimal"]),
    "numbers that may be names": ("2001,2002\n4,5\n", ["2001", "data.header"]),
    "columns aligned by spaces": ("a  b\n1  2\n", ["spaces"]),
    "every text at once": ("a,b,c\n1,x,y\n2,z,w\n", ["'b'", "'x'", "'c'", "'y'", "onehot"]),
    "every gap at once": ("a,b,c\n1,,?\n2,3,4\n", ["'b'", "'c'", "?: 1", "data.impute"]),
    "one name twice": ("a,a,b\n1,2,3\n", ["'a'"]),
    "names that differ in blanks": ("a, a\n1,2\n", ["'a'"]),
    "an unnamed column that does not count": (",a\n3,1\n2,2\nx,3\n", ["'Unnamed: 0'", "'x'"]),
    "a short row": ("a,b\n1,2\n3\n", ["2 columns"]),
    "only a header": ("a,b\n", ["no row"]),
    "nothing": ("", ["no row"]),
    "infinity": ("a,b\n1,inf\n", ["'b'", "inf", "row 1"]),
    "a number beyond float32": ("a,b\n1,1e39\n", ["'b'", "1e+39"]),
    "an underscore in a number": ("a,b\n1,1_000\n2,3\n", ["'1_000'"]),
}  # fmt: skip


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def assert_holds(path, names, rows, *, columns=None, text=None):
    found = read([path], columns or ColumnRoles(), text)
    assert found.features.names == (tuple(names.split()) if "\n" not in names else ("a", "b\nc"))
    np.testing.assert_array_equal(found.tables[0].rows, np.array(rows, np.float32))
    return found


@pytest.mark.parametrize("habit", RIGHT)
def test_a_file_is_read_as_its_writer_meant_it(tmp_path, habit):
    text, columns, names, rows = RIGHT[habit]
    assert_holds(write(tmp_path / "own.csv", text), names, rows, columns=columns)


@pytest.mark.parametrize("habit", WRONG)
def test_a_file_that_cannot_be_read_is_refused_in_one_line_with_a_way_out(tmp_path, habit):
    text, parts = WRONG[habit]
    with pytest.raises(UserError) as error:
        read([write(tmp_path / "own.csv", text)])
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding):
    path = write(tmp_path / "own.csv", "ä;b\n1,5;2\n", encoding)
    assert_holds(path, "ä b", [[1.5, 2]])


def test_another_encoding_is_asked_for_and_taken(tmp_path):
    path = write(tmp_path / "own.csv", "ä,b\n1,2\n", "cp1252")
    with pytest.raises(UserError, match=r"data\.encoding"):
        read([path])
    assert_holds(path, "ä b", [[1, 2]], text=TextFormat(encoding="cp1252"))


@pytest.mark.parametrize("suffix", [".csv.gz", ".txt.gz"])
def test_packed_text_is_read(tmp_path, suffix):
    path = tmp_path / f"own{suffix}"
    path.write_bytes(gzip.compress(b"a;b\n1;2\n"))
    assert_holds(path, "a b", [[1, 2]])


def test_keys_settle_what_cannot_be_recognised(tmp_path):
    path = write(tmp_path / "own.csv", "1;2\n1,234;5\n")
    for text, rows in {
        TextFormat(decimal=",", header="first_row"): [[1.234, 5]],
        TextFormat(decimal=".", header="none"): [[1, 2], [1234, 5]],
    }.items():
        found = read([path], text=text)
        np.testing.assert_array_equal(found.tables[0].rows, np.array(rows, np.float32))


def test_what_a_file_is_named_for_is_said_where_it_is_not_read(tmp_path):
    with pytest.raises(UserError, match="Excel"):
        read([write(tmp_path / "own.xlsx", "PK")])


def test_what_was_left_out_or_taken_for_something_else_is_said(tmp_path):
    text = ",a;x,ok\n0,?,True\n4,NULL,False\n# a comment\n9,1,True\n"
    (note,) = read([write(tmp_path / "own.csv", text)], KEEP).notes
    for part in ("'Unnamed: 0'", "'ok'", "?: 1", "NULL: 1", "comments left out"):
        assert part in note


@pytest.mark.parametrize("blank", ["\n", "  \n", "\r\n\r\n", "# a comment\n\n", "\n# a comment\n"])
def test_blank_lines_and_comments_above_the_header_are_left_out(tmp_path, blank):
    path = write(tmp_path / "own.csv", f"{blank}a,b\n1,2\n\n3,4\n")
    assert_holds(path, "a b", [[1, 2], [3, 4]])


@pytest.mark.parametrize("blank", ["", "\n"])
def test_a_comment_above_the_rows_may_be_the_header(tmp_path, blank):
    path = write(tmp_path / "own.csv", f"#a\tb\n{blank}1\t2\n3\t4\n")
    assert_holds(path, "#a b", [[1, 2], [3, 4]])


def test_a_line_of_spaces_above_the_rows_is_no_header(tmp_path):
    path = write(tmp_path / "own.csv", "   \n1 2 3 4\n5 6 7 8\n")
    names = "column_1 column_2 column_3 column_4"
    assert_holds(path, names, [[1, 2, 3, 4], [5, 6, 7, 8]], text=TextFormat(header="none"))


def test_a_likely_id_is_said_and_kept_out_on_request(tmp_path):
    rows = [f"{i * 7},{i % 3}" for i in range(200)]
    path = write(tmp_path / "own.csv", "\n".join(["customer,a", *rows]))
    assert "'customer'" in read([path]).notes[0]
    table = read([path], ColumnRoles(ids=("customer",))).tables[0]
    assert table.ids["customer"][:].tolist() == [str(i * 7) for i in range(200)]


def test_rows_longer_than_a_block_are_read(tmp_path):
    row = ",".join(["1.25"] * 10) + ",1." + "0" * 2**23
    path = write(tmp_path / "own.csv", ",".join("abcdefghijk") + f"\n{row}\n{row}\n")
    assert_holds(path, "a b c d e f g h i j k", [[1.25] * 10 + [1]] * 2)


@pytest.mark.parametrize(
    "text", ["a,y\n1,0.0\n2,1.0\n", "a,y\n1,no\n2,yes\n", "a,y\n1,False\n2,True\n"]
)
def test_labels_are_whole_numbers_or_words(tmp_path, text):
    path = write(tmp_path / "own.csv", text)
    np.testing.assert_array_equal(read([path], ColumnRoles(label="y")).tables[0].labels, [0, 1])


def test_a_test_file_may_lack_labels_and_all_labels_may_be_of_one_class(tmp_path):
    train = write(tmp_path / "train.csv", "a,y\n1,0\n2,0\n")
    test = write(tmp_path / "test.csv", "a\n5\n")
    found = read([train, test], ColumnRoles(label="y"))
    np.testing.assert_array_equal(found.tables[0].labels, [0, 0])
    assert found.tables[1].labels is None
    assert "'y'" in found.notes[0]


def test_a_test_file_must_not_hold_a_category_that_the_training_lacks(tmp_path):
    train, test = (write(tmp_path / f"{name}.csv", f"a,c\n1,{name}\n2,x\n") for name in ("y", "z"))
    with pytest.raises(UserError, match="'z' in row 1"):
        read([train, test], ONEHOT)
