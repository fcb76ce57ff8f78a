"""A run of this version, kept in the tree, loads, evaluates and resumes.

After a change of a run's files, `python -m tests.golden.make` trains it anew.
"""

import shutil

import numpy as np
import pytest

from tests.golden.make import GOLDEN, LAST_STEP, golden_config
from trainer.evaluation.evaluate import evaluate
from trainer.run import restore, workdir
from trainer.training.train import train


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(GOLDEN, tmp_path / "run")


def test_the_golden_run_loads_and_evaluates_to_its_logged_loss(run):
    model = restore.load_model(run)
    assert (model.step, model.model.code_size) == (LAST_STEP, 2)
    rows = workdir.read(run).log.rows()
    metrics = evaluate(str(run))
    assert metrics["mse"] == pytest.approx(rows[-1]["loss"], rel=0.1)  # validation's, not test's


def test_the_golden_run_resumes_to_where_an_unbroken_run_ends(run, tmp_path):
    logged = workdir.read(run).log.rows()
    resumed = train(golden_config(2 * LAST_STEP), str(run))
    unbroken = train(golden_config(2 * LAST_STEP), str(tmp_path / "unbroken"))
    np.testing.assert_allclose(resumed["loss"], unbroken["loss"], rtol=1e-5)
    rows = workdir.read(run).log.rows()
    assert rows[: len(logged)] == logged
    assert rows[-1]["step"] == 2 * LAST_STEP
