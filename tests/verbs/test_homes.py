"""A workdir may begin with ~, for every command that makes a run or reads one."""

import contextlib
import shutil

import numpy as np
import pytest

from tests.verbs.sources import config_of, vectors
from tests.verbs.test_mistakes import OF_A_RUN
from trainer import AutoencoderTransformer
from trainer.evaluation import compare
from trainer.run import workdir
from trainer.serving import export
from trainer.train import train


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and another to work in, which is to stay empty."""
    folder, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for made in (folder, elsewhere):
        made.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(elsewhere)
    yield folder
    assert list(elsewhere.iterdir()) == []


def test_every_verb_finds_the_run_that_a_training_left_at_home(home, source_of, aside, monkeypatch):
    monkeypatch.setattr(export, "_compare", lambda *_: {"keras": {"encode": 0.0}})
    train(config_of("vae", source_of("npz_vectors")), "~/run")
    assert (home / "run" / workdir.CONFIG).exists()
    for verb, call in OF_A_RUN.items():
        with contextlib.suppress(SystemExit) if verb == "verify" else contextlib.nullcontext():
            call("~/run", aside)
    (home / "runs").mkdir()
    shutil.move(home / "run", home / "runs" / "run")
    assert compare.find(["~/runs"]) == ([home / "runs" / "run"], [])


def test_scikit_learns_transformer_leaves_its_run_at_home(home):
    transformer = AutoencoderTransformer(
        "linear", code_size=2, num_epochs=1e-6, batch_size=8, workdir="~/run"
    )
    assert np.isfinite(transformer.fit_transform(vectors())).all()
    assert (home / "run" / workdir.CONFIG).exists()
