"""A user's arrays are read as the numbers that they are, or refused in one line."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import FEATURES, vectors
from trainer.data.dataset import to_unit
from trainer.data.files import numpy_files, training_arrays

ALL = float("inf")  # allowed bytes
ROWS = vectors(20)
TOO_LARGE = vectors(5020)
TOO_LARGE[5007, 3] = 1e39


@pytest.fixture
def save(save):
    return lambda **arrays: Path(save(**arrays).removeprefix("arrays:"))


def read(path, allowed_bytes=ALL):
    return training_arrays.read(path, allowed_bytes).examples


@pytest.mark.parametrize("dtype", [">f4", "int64", "bool"])
def test_vectors_are_taken_as_the_numbers_that_they_are(save, dtype):
    raw = np.random.default_rng(0).integers(0, 200, (5000, FEATURES)).astype(dtype)
    arrays = read(save(train=raw, test=np.asfortranarray(raw[:10])))
    assert arrays["train"].dtype == arrays["test"].dtype == np.float32
    np.testing.assert_array_equal(arrays["train"], raw)
    np.testing.assert_array_equal(arrays["test"], raw[:10])
    # TensorFlow can share the memory.
    assert arrays["train"].ctypes.data % 64 == 0
    assert arrays["train"].flags.writeable


def test_images_are_bytes_or_floats_between_0_and_1(save):
    grey = np.random.default_rng(0).integers(0, 256, (20, 8, 9)).astype(np.uint8)
    as_bytes = read(save(train=grey))["train"]
    assert as_bytes.dtype == np.uint8
    np.testing.assert_array_equal(as_bytes[..., 0], grey)
    as_floats = read(save(train=grey / 255.0))["train"]
    assert as_floats.dtype == np.float32
    np.testing.assert_allclose(as_floats, to_unit(as_bytes), rtol=1e-6)
    assert read(save(train=np.zeros((20, 4, 5, 3))))["train"].shape == (20, 4, 5, 3)


@pytest.mark.parametrize("make", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize("write", [np.savez_compressed, np.save])
def test_blocks_are_the_rows_of_an_array(tmp_path, make, write):
    rows = make(vectors(25).astype(">f8"))
    path = tmp_path / ("own.npy" if write is np.save else "own.npz")
    write(path, **({"arr": rows} if write is np.save else {"train": rows}))
    (stored,) = numpy_files.open_arrays(path).values()
    assert (stored.shape, stored.nbytes) == (rows.shape, rows.nbytes)
    blocks = list(stored.blocks(10, ALL))
    assert [len(block) for block in blocks] == [10, 10, 5]
    assert {block.dtype for block in blocks} == {np.dtype("=f8")}
    np.testing.assert_array_equal(np.concatenate(blocks), rows)
    assert list(read(path)) == ["train"]  # as the array of an .npy file is called


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"train": np.array([["a"]] * 20)}, "type <U1"),
        ({"train": ROWS, "test": TOO_LARGE}, "1e+39 in row 5007, column 3"),
        ({"train": np.ones(20)}, "shape (20,)"),
        ({"train": ROWS, "test": ROWS[:0]}, "shape (0, 6)"),
        ({"train": np.full((20, 4, 4, 1), 1.5)}, "1.5 in row 0, column (0, 0, 0)"),
        ({"train": np.full((20, 4, 4, 1), -0.1)}, "-0.1 in row 0"),
        ({"train": np.full((20, 4, 4, 1), np.nan)}, "nan in row 0"),
        ({"train": ROWS, "test_labels": np.arange(5)}, "'test_labels'"),
        ({"train": ROWS, "train_labels": np.full(20, 0.5)}, "holds 0.5; labels are whole numbers"),
        ({"train": ROWS, "train_labels": np.full(20, np.inf)}, "holds inf; labels"),
        ({"train": ROWS, "train_labels": np.full(20, 2**63, np.uint64)}, f"holds {2**63}; labels"),
    ],
)
def test_arrays_that_do_not_serve_are_refused(save, refused, arrays, named):
    path = save(**arrays)
    line = refused(read, path)
    assert named in line
    assert str(path) in line


def test_arrays_larger_than_the_memory_are_refused(save, refused):
    path, size = save(train=ROWS, train_labels=np.arange(20)), ROWS.nbytes + 20 * 8
    read(path, size)
    assert "GiB of memory" in refused(read, path, size - 1)
    # One stored by columns has no rows to read a block at a time.
    stored = numpy_files.open_arrays(save(rows=np.asfortranarray(ROWS)))["rows"]
    assert "numpy.ascontiguousarray" in refused(list, stored.blocks(5, stored.nbytes - 1))


def test_a_file_cut_while_it_is_read_or_missing_is_refused(tmp_path, refused):
    path = tmp_path / "rows.npy"
    np.save(path, ROWS)
    (stored,) = numpy_files.open_arrays(path).values()
    longer = dataclasses.replace(stored, shape=(21, FEATURES))
    assert "ends too early" in refused(list, longer.blocks(5, ALL))
    path.unlink()
    assert f"{path} cannot be read: No such file" in refused(read, path)
