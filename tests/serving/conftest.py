import functools

import numpy as np
import pytest

from tests.verbs.sources import FEATURES, SIDE, Source, classes, config_of, write_table
from trainer.run import restore
from trainer.training.train import train


def vectors(count=60, seed=0):
    """Around 5, with stds of 1 to 5."""
    return np.random.default_rng(seed).normal(5, np.arange(1, 1 + FEATURES), (count, FEATURES))


def dense_run(folder, source):
    train(config_of("dense", source), str(folder / "run"))
    return str(folder / "run")


@pytest.fixture(scope="package")
def image_run(tmp_path_factory):
    """A dense net of grey images of 8x8 pixels."""
    settings = {"name": "digits", "image_size": SIDE}
    return dense_run(tmp_path_factory.mktemp("images"), Source(settings, (SIDE, SIDE, 1), True, ""))


@pytest.fixture(scope="package")
def vector_run(tmp_path_factory):
    """A dense net of standardised vectors with labels."""
    folder = tmp_path_factory.mktemp("vectors")
    np.savez(folder / "own.npz", train=vectors(), train_labels=classes(60))
    settings = {"name": f"arrays:{folder / 'own.npz'}", "standardise": True}
    return dense_run(folder, Source(settings, (FEATURES,), True, ""))


@pytest.fixture(scope="package")
def table_run(tmp_path_factory):
    """A dense net of a table's standardised columns, of which one has missing numbers.

    `test.csv` beside the run is the table of its test split.
    """
    folder = tmp_path_factory.mktemp("table")
    for name, seed in (("train", 0), ("test", 1)):
        rows = vectors(seed=seed)
        rows[::7, 2] = np.nan
        words = np.array(["iris", "rose"])[classes(60)]
        write_table(folder / f"{name}.csv", rows, kind=words, id=np.arange(60))
    settings = {
        "name": f"table:{folder / 'train.csv'},{folder / 'test.csv'}",
        "label_column": "kind",
        "drop_columns": ("id",),
        "impute": "median",
        "standardise": True,
    }
    return dense_run(folder, Source(settings, (FEATURES,), True, ""))


@pytest.fixture(scope="package")
def loaded():
    return functools.cache(restore.load_model)


@pytest.fixture(autouse=True)
def load_once(monkeypatch, loaded):
    """Loads each run once for all calls."""
    monkeypatch.setattr(restore, "load_model", loaded)
