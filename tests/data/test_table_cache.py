"""A table that stays in its cache gives the same data, run and codes as one in memory."""

import gzip
import json
import os
import types

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tests.data.conftest import splits_of
from trainer.data.dataset import Records
from trainer.data.files import table_cache
from trainer.serving.options import StreamOptions
from trainer.serving.stream import encode
from trainer.storage import paths
from trainer.training.train import train

KEYS = {
    "label_column": "kind",
    "id_columns": ("customer",),
    "categorical": "onehot",
    "impute": "median",
    "standardise": True,
}


def content(count=200, seed=0):
    """Columns of every kind; the words of one come in another order than they are sorted in."""
    rng = np.random.default_rng(seed)
    height = rng.normal(1e6, 3, count)
    height[::7] = np.nan
    late = ["7" if number < count - 20 else "b" for number in range(count)]
    return pa.table(
        {
            "height": pa.array(height, from_pandas=True),
            "colour": [("red", "green", None, "blue")[n % 4] for n in rng.integers(0, 99, count)],
            "age": rng.integers(0, 90, count),
            "late": late,
            "customer": [f"c{'x' * (n % 5)}{n}" for n in range(count)],
            "kind": [("rose", "iris")[n % 2] for n in range(count)],
        }
    )


@pytest.fixture(params=["own.csv", "own.csv.gz", "own.parquet"])
def path(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(content(), path, row_group_size=64)
    else:
        with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
            pyarrow.csv.write_csv(content(), file)
    return path


def caches(path):
    return sorted(path.parent.glob(f"{table_cache.FOLDER}/[!.]*"))


def assert_same(one, other):
    assert one.inputs() == other.inputs()
    assert one.fingerprint() == other.fingerprint()
    for held, stays in zip(splits_of(one), splits_of(other), strict=True):
        np.testing.assert_array_equal(held.images[:], stays.images[:])
        np.testing.assert_array_equal(held.labels, stays.labels)
        np.testing.assert_array_equal(held.ids["customer"], stays.ids["customer"][:])
        chosen = np.array([3, 0, 3])
        np.testing.assert_array_equal(held.images[chosen], stays.images[chosen])


@pytest.mark.parametrize("changed", [{}, {"impute": "mean"}, {"standardise": False}])
def test_the_data_are_the_same_in_memory_and_from_the_cache(path, load, changed):
    name, keys = f"table:{path},{path}", KEYS | changed
    held = load(name, **keys)
    assert not caches(path)
    stays, again = (load(name, placement="records", **keys) for _ in range(2))
    small = load(name, memory_gib=1e-6, **keys)  # 1074 bytes
    for dataset in (stays, again, small):
        assert isinstance(dataset.train.images, Records)
        assert_same(held, dataset)
        assert dataset.notes == held.notes
    assert_same(held, load(name, **keys))  # from the cache into memory
    assert len(caches(path)) == 2  # the test table takes the categories of the training's


def test_a_cache_is_made_once_and_again_where_the_table_or_the_cache_has_changed(
    path, load, monkeypatch
):
    name, keys = f"table:{path}", KEYS | {"placement": "records"}
    held = load(name, **KEYS)
    load(name, **keys)
    with monkeypatch.context() as patch:
        patch.setattr(table_cache, "_write", lambda *_: pytest.fail("the table is read again"))
        load(name, **keys)
    (cache,) = caches(path)
    rows = cache / "rows.npy"
    rows.write_bytes(rows.read_bytes()[:-1])
    (cache.parent / f".{cache.name}").mkdir()  # of a process that died
    assert_same(held, load(name, **keys))
    os.utime(path, (1, 1))
    load(name, **keys)
    assert cache not in caches(path) and len(caches(path)) == 1
    elsewhere = path.parent / "cache"
    assert_same(held, load(name, cache_dir=str(elsewhere), **keys))
    assert len(list(elsewhere.glob("[!.]*"))) == 1


def test_rows_that_cannot_stay_are_refused_in_one_line(path, load, refused, monkeypatch):
    name, keys = f"table:{path}", KEYS | {"memory_gib": 1e-6}
    assert "placement='host' is not allowed" in refused(load, name, placement="host", **keys)
    assert not caches(path)
    (path.parent / "file").touch()
    line = refused(load, name, cache_dir=str(path.parent / "file"), **keys)
    assert "cannot be written" in line and "data.cache_dir=DIR" in line
    if path.suffix == ".parquet":
        with monkeypatch.context() as patch:
            full = types.SimpleNamespace(free=100)
            patch.setattr(paths.shutil, "disk_usage", lambda _: full)
            line = refused(load, name, **keys)
        assert "0 MiB free" in line and "data.cache_dir=DIR" in line
    assert "'colour'" in refused(load, name, **keys | {"categorical": ""})
    assert not caches(path)
    assert not list(path.parent.glob(f"{table_cache.FOLDER}/.[!l]*"))


@pytest.mark.parametrize("path", ["own.csv", "own.parquet"], indirect=True)
def test_a_run_resumes_and_encodes_bit_for_bit_from_the_cache(path, digits_config, tmp_path):
    config = digits_config
    config.data.update({"name": f"table:{path}", **KEYS})
    config.model.output_activation = "linear"
    config.optimizer.schedule = "constant"
    config.update({"batch_size": 8, "num_epochs": 1.0, "figures": False})
    losses, codes = [], []
    for placement, epochs in (("host", (1.0,)), ("records", (0.5, 1.0))):
        workdir = str(tmp_path / placement)
        config.data.placement = placement
        for config.num_epochs in epochs:
            losses.append(train(config, workdir)["loss"])
        for source in ("train", str(path)):
            output = tmp_path / f"{placement}.npz"
            encode(workdir, source, str(output), StreamOptions(overwrite=True))
            with np.load(output) as arrays:
                codes.append({key: arrays[key] for key in arrays.files})
    assert losses[0] == losses[2] != losses[1]
    for one, other in zip(codes[:2], codes[2:], strict=True):
        assert one.keys() == other.keys() >= {"customer", "codes", "labels"}
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    inputs = [
        json.loads((tmp_path / name / "config.json").read_text())["inputs"]
        for name in ("host", "records")
    ]
    assert inputs[0] == inputs[1]
