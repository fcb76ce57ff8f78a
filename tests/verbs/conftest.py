import functools
import os

import numpy as np
import pytest

from tests.verbs.sources import SOURCES, config_of, vectors
from trainer.monitoring import figures
from trainer.serving import export
from trainer.train import train


@pytest.fixture(scope="package")
def source_of(tmp_path_factory):
    """Makes a source by its name, once."""

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        if name == "tfds":
            os.environ["TFDS_DATA_DIR"] = str(folder)
        return SOURCES[name](folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", "none")  # restored at the end
        yield functools.cache(make)


@pytest.fixture(scope="package")
def run_of(source_of, tmp_path_factory):
    """Trains a kind on a source, once; returns the workdir."""

    def make(kind, source):
        folder = tmp_path_factory.mktemp("runs") / f"{kind}-{source}"
        train(config_of(kind, source_of(source)), str(folder))
        return folder

    return functools.cache(make)


@pytest.fixture(autouse=True)
def few_columns(monkeypatch):
    """Saves a quarter of the time that the evaluation of a tiny run takes."""
    monkeypatch.setattr(figures, "COLUMNS", 2)


@pytest.fixture
def uncompared(monkeypatch):
    """Exports without the process that compares, which tests/serving/test_export.py starts."""

    def compare(folder, reference, formats):
        del folder, reference
        return {name: {"encode": 0.0} for name in formats}

    monkeypatch.setattr(export, "compare", compare)


@pytest.fixture
def inputs(tmp_path):
    """A folder with vectors, and with codes of two numbers."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.save(folder / "rows.npy", vectors())
    np.save(folder / "codes.npy", vectors()[:, :2])
    return folder
