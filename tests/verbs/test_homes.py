"""A workdir may begin with ~, for every command that makes a run or reads one."""

import contextlib
import shutil

import numpy as np
import pytest

from tests.verbs.sources import config_of, vectors
from tests.verbs.verbs import VERBS
from trainer import AutoencoderTransformer
from trainer.evaluation import compare
from trainer.run import workdir
from trainer.train import train


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder; the working directory is another one, which must stay empty."""
    folder, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for made in (folder, elsewhere):
        made.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(elsewhere)
    yield folder
    assert list(elsewhere.iterdir()) == []


@pytest.mark.usefixtures("uncompared")
def test_every_verb_finds_a_run_in_the_home_folder(home, source_of, inputs, tmp_path):
    train(config_of("vae", source_of("npz_vectors")), "~/run")
    assert (home / "run" / workdir.CONFIG).exists()
    for name, verb in VERBS.items():
        with contextlib.suppress(SystemExit) if name == "verify" else contextlib.nullcontext():
            verb.call("~/run", inputs, tmp_path / "out")
    (home / "runs").mkdir()
    shutil.move(home / "run", home / "runs" / "run")
    assert compare.find(["~/runs"]) == ([home / "runs" / "run"], [])


def test_the_scikit_learn_transformer_keeps_its_run_in_the_home_folder(home):
    transformer = AutoencoderTransformer(
        "linear", code_size=2, num_epochs=1e-6, batch_size=8, workdir="~/run"
    )
    assert np.isfinite(transformer.fit_transform(vectors())).all()
    assert (home / "run" / workdir.CONFIG).exists()
