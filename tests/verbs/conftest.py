import numpy as np
import pytest

from tests.verbs.sources import SOURCES, config_of, vectors
from trainer.evaluation.evaluate import evaluate
from trainer.monitoring import figures
from trainer.serving import export
from trainer.training.train import train


@pytest.fixture(scope="package")
def home(tmp_path_factory):
    """A home folder, and in it an evaluated run of a vae of vectors, trained as `~/run`."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        train(config_of("vae", SOURCES["npz_vectors"](folder)), "~/run")
        evaluate("~/run")
    return folder


@pytest.fixture(autouse=True)
def few_columns(monkeypatch):
    """Saves a quarter of the time that the evaluation of a tiny run takes."""
    monkeypatch.setattr(figures, "COLUMNS", 2)


@pytest.fixture
def uncompared(monkeypatch):
    """Exports without the process that compares, which tests/serving/test_export.py starts."""
    monkeypatch.setattr(export, "compare", lambda *_: {"keras": {"encode": 0.0}})


@pytest.fixture
def inputs(tmp_path):
    """A folder with vectors, and with codes of two numbers."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.save(folder / "rows.npy", vectors())
    np.save(folder / "codes.npy", vectors()[:, :2])
    return folder
