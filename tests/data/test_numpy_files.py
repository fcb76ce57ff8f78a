"""A user's arrays are read as the numbers that they are, or refused in one line."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from trainer.data.dataset import to_unit
from trainer.data.files import numpy_files
from trainer.errors import UserError

FEATURES = 6
ALL = float("inf")  # allowed bytes


def vectors(count=20, seed=0):
    return np.random.default_rng(seed).normal(5, 3, (count, FEATURES))


def with_one(value):
    rows = vectors()
    rows[7, 3] = value
    return rows


def read(name, allowed_bytes=ALL):
    return numpy_files.read(Path(name.removeprefix("arrays:")), allowed_bytes)


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "int64", "uint8", "bool"])
def test_vectors_are_taken_as_the_numbers_that_they_are(save, dtype):
    raw = np.random.default_rng(0).integers(0, 200, (5000, FEATURES)).astype(dtype)
    arrays = read(save(train=raw, test=np.asfortranarray(raw[:10])))
    assert arrays["train"].dtype == arrays["test"].dtype == np.float32
    np.testing.assert_array_equal(arrays["train"], raw)
    np.testing.assert_array_equal(arrays["test"], raw[:10])
    # TensorFlow can share the memory.
    assert arrays["train"].ctypes.data % 64 == 0
    assert arrays["train"].flags.writeable


def test_an_npy_file_holds_the_training_examples(tmp_path, save):
    np.save(tmp_path / "rows.npy", vectors())
    np.save(tmp_path / "columns.npy", np.asfortranarray(vectors()))
    expected = read(save(train=vectors()))["train"]
    for name in ("rows", "columns"):
        arrays = read(str(tmp_path / f"{name}.npy"))
        assert list(arrays) == ["train"]
        np.testing.assert_array_equal(arrays["train"], expected)


def test_images_are_bytes_or_floats_between_0_and_1(save):
    grey = np.random.default_rng(0).integers(0, 256, (20, 4, 5)).astype(np.uint8)
    as_bytes = read(save(train=grey))["train"]
    assert as_bytes.dtype == np.uint8
    np.testing.assert_array_equal(as_bytes[..., 0], grey)
    as_floats = read(save(train=grey / 255.0))["train"]
    assert as_floats.dtype == np.float32
    np.testing.assert_allclose(as_floats, to_unit(as_bytes), rtol=1e-6)
    assert read(save(train=np.zeros((20, 4, 5, 3))))["train"].shape == (20, 4, 5, 3)


@pytest.mark.parametrize("make", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, np.save])
def test_blocks_are_the_rows_of_an_array(tmp_path, make, write):
    rows = make(vectors(25).astype(">f8"))
    path = tmp_path / ("own.npy" if write is np.save else "own.npz")
    write(path, **({"arr": rows} if write is np.save else {"rows": rows}))
    (stored,) = numpy_files.open_arrays(path).values()
    assert (stored.shape, stored.nbytes) == (rows.shape, rows.nbytes)
    blocks = list(stored.blocks(10, ALL))
    assert [len(block) for block in blocks] == [10, 10, 5]
    assert {block.dtype for block in blocks} == {np.dtype("=f8")}
    np.testing.assert_array_equal(np.concatenate(blocks), rows)


def test_an_array_stored_by_columns_must_fit_the_memory_as_a_whole(save, refused):
    path = Path(save(rows=np.asfortranarray(vectors())).removeprefix("arrays:"))
    stored = numpy_files.open_arrays(path)["rows"]
    assert "numpy.ascontiguousarray" in refused(list, stored.blocks(5, stored.nbytes - 1))


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"x_train": vectors()}, "'train'; it holds 'x_train'"),
        ({}, "it holds nothing"),
        ({"train": vectors(), "labels": [0]}, "holds 'labels'"),
        ({"train": np.array([[{}]] * 20)}, "'train'"),
        ({"train": np.array([["a"]] * 20)}, "type <U1"),
        ({"train": np.ones((20, 2), complex)}, "type complex128"),
        ({"train": with_one(np.nan)}, "nan in row 7, column 3"),
        ({"train": vectors(), "test": with_one(-np.inf)}, "-inf in row 7"),
        ({"train": with_one(1e39)}, "1e+39 in row 7, column 3"),
        ({"train": np.vstack([vectors(5000), with_one(np.nan)])}, "nan in row 5007"),
        ({"train": vectors(), "test": vectors(9)[:, 1:]}, "5 numbers, 'train' of 6"),
        ({"train": np.ones(20)}, "shape (20,)"),
        ({"train": np.ones((20, 0))}, "shape (20, 0)"),
        ({"train": vectors(), "test": vectors(0)}, "shape (0, 6)"),
        ({"train": np.ones((20, 4, 4), int)}, "type int64; images are uint8"),
        ({"train": np.full((20, 4, 4), 1.5)}, "1.5 in row 0, column (0, 0)"),
        ({"train": np.full((20, 4, 4), -0.1)}, "-0.1 in row 0"),
        ({"train": np.full((20, 4, 4), np.nan)}, "nan in row 0"),
        ({"train": vectors(), "train_labels": np.arange(19)}, "20 integers"),
        ({"train": vectors(), "train_labels": np.ones(20)}, "float64 [20]"),
        ({"train": vectors(), "train_labels": np.ones(20, int)}, "all 1"),
        ({"train": vectors(), "test_labels": np.arange(5)}, "'test_labels' without 'test'"),
    ],
)
def test_arrays_that_do_not_serve_are_refused(save, refused, arrays, named):
    name = save(**arrays)
    line = refused(read, name)
    assert named in line
    assert name.removeprefix("arrays:") in line


def test_arrays_larger_than_the_memory_are_refused(save, refused):
    name = save(train=vectors(), train_labels=np.arange(20))
    size = vectors().nbytes + 20 * 8
    read(name, size)
    assert "GiB of memory" in refused(read, name, size - 1)


def damaged(content):
    return content[:600] + bytes([content[600] ^ 1]) + content[601:]


@pytest.mark.parametrize(
    ("file", "damage", "named"),
    [
        ("none.npz", None, "No such file"),
        (".", None, "Is a directory"),
        ("empty.npz", lambda _: b"", "is no .npz or .npy file"),
        ("text.npz", lambda _: b"1,2,3\n", "is no .npz or .npy file"),
        ("cut.npz", lambda content: content[:-100], "is no .npz or .npy file"),
        ("damaged.npz", damaged, "'train' in "),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, save, refused, file, damage, named):
    content = Path(save(train=vectors()).removeprefix("arrays:")).read_bytes()
    if damage:
        (tmp_path / file).write_bytes(damage(content))
    line = refused(read, str(tmp_path / file))
    assert named in line
    assert str(tmp_path / file) in line


def test_a_file_cut_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, vectors())
    (stored,) = numpy_files.open_arrays(path).values()
    longer = dataclasses.replace(stored, shape=(21, FEATURES))
    with pytest.raises(UserError, match="ends too early"):
        list(longer.blocks(5, ALL))
