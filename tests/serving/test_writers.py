"""Writers: whole files of any number of blocks, or nothing and one line."""

import contextlib
import resource
import signal

import numpy as np
import pyarrow.parquet
import pytest

from tests.serving.files import array_of, read_table
from tests.verbs.refusals import refused
from trainer.errors import StorageError
from trainer.serving import writers


@pytest.mark.parametrize("suffix", [".npz", ".tsv", ".csv", ".parquet"])
def test_text_may_grow_longer_from_block_to_block(tmp_path, suffix):
    labels = ["a", "bb", "a", 'c"\t,c', "dddddd"]
    output = tmp_path / f"codes{suffix}"
    codes = np.arange(10, dtype=np.float32).reshape(5, 2)
    with writers.create(str(output)) as write:
        for some in (slice(0, 2), slice(2, 4), slice(4, 5)):
            write({"codes": codes[some], "labels": np.array(labels[some])})
    np.testing.assert_array_equal(array_of(output, "code"), codes)
    if suffix == ".npz":
        with np.load(output) as written:
            assert written["labels"].tolist() == labels
    else:
        assert read_table(output)["label"].to_pylist() == labels


def test_a_parquet_file_of_many_row_groups_is_whole(tmp_path):
    rows = np.zeros((2**16, 64), np.float32)  # 16 MiB
    with writers.create(str(tmp_path / "c.parquet")) as write:
        for block in range(3):
            rows[:, 63] = np.arange(len(rows)) + block * len(rows)
            write({"codes": rows.copy()})
    assert pyarrow.parquet.ParquetFile(tmp_path / "c.parquet").num_row_groups > 1
    written = read_table(tmp_path / "c.parquet")["code_63"].to_numpy()
    np.testing.assert_array_equal(written, np.arange(3 * len(rows)))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_ids_begin_a_table_under_their_own_names(tmp_path, suffix):
    output = tmp_path / f"out{suffix}"
    ids = {"codes": np.array(["a", "b"]), "errors": np.array([7, 8])}
    with writers.create(str(output)) as write:
        write({"codes": np.zeros((2, 1), np.float32), "errors": np.zeros(2, np.float32)}, ids)
    assert read_table(output).column_names == ["codes", "errors", "code_0", "error"]
    assert read_table(output)["codes"].to_pylist() == ["a", "b"]


def test_an_id_may_have_a_name_that_no_file_can_have(tmp_path):
    with writers.create(str(tmp_path / "out.npz")) as write:
        write({"codes": np.zeros((2, 1), np.float32)}, {"a/b": np.array([7, 8])})
    with np.load(tmp_path / "out.npz") as written:
        assert written.files == ["codes", "a/b"]
        np.testing.assert_array_equal(written["a/b"], [7, 8])


@pytest.mark.parametrize("name, suffix", [("code_0", ".csv"), ("label", ".tsv"), ("codes", ".npz")])
def test_an_id_with_the_name_of_another_column_is_refused(tmp_path, name, suffix):
    columns = {"codes": np.zeros((2, 1), np.float32), "labels": np.zeros(2, int)}
    with (
        refused(f"two columns of the output would have the name {name!r}", tmp_path),
        writers.create(f"{tmp_path}/out{suffix}") as write,
    ):
        write(columns, {name: np.zeros(2, int)})


@contextlib.contextmanager
def small_disk(largest_bytes):
    """Has the system refuse to write files that are larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", ["out.npy", "out.npz", "out.csv", "out.parquet", "out/"])
def test_a_disk_that_is_full_on_the_way_gets_one_line_and_keeps_nothing(tmp_path, name):
    rows = np.random.default_rng(0).random((8, 64, 64, 1), np.float32)
    rows = rows if name == "out/" else rows.reshape(-1, 64)
    with (
        refused("File too large", tmp_path, kind=StorageError),
        small_disk(2**12 if name == "out/" else 2**16),
        writers.create(f"{tmp_path}/{name}") as write,
    ):
        for _ in range(20):
            write({"images": rows})
