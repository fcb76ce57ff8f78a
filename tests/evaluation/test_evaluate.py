"""An evaluation as a whole: what it reads, writes and refuses."""

import json

import numpy as np
import pytest
from sklearn.decomposition import PCA

from configs import base
from trainer import data
from trainer.config import make_data
from trainer.data.dataset import to_unit
from trainer.errors import UserError
from trainer.evaluation.evaluate import evaluate, print_table
from trainer.evaluation.evaluators.probe import probe_accuracy
from trainer.run import workdir
from trainer.train import train


def test_the_table_shows_lists_by_what_they_hold(capsys):
    metrics = {"mse": 0.5, "levels": [0.25, 0.125], "few": [3, 1], "many": list(range(50))}
    print_table(metrics, "runs/x")
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:4]]
    assert rows == [
        ["mse", "0.50000"],
        ["levels", "0.12500 to 0.25000 (2 in all)"],
        ["few", "3, 1"],
        ["many", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... (50 in all)"],
    ]


@pytest.fixture
def linear_run(tmp_path, digits_config):
    digits_config.model = base.get_config("linear").model
    digits_config.model.code_size = 4
    train(digits_config, str(tmp_path))
    return tmp_path


def test_a_run_is_measured_with_pca_on_its_own_images(linear_run):
    metrics = evaluate(str(linear_run))
    assert json.loads((linear_run / workdir.METRICS).read_text()) == metrics
    assert (linear_run / "reconstructions.png").read_bytes().startswith(b"\x89PNG")
    digits = data.load(make_data("digits"))
    (images, labels), (test_images, test_labels) = digits.train.read(), digits.test.read()
    rows, test_rows = (to_unit(some).reshape(len(some), -1) for some in (images, test_images))
    pca = PCA(4).fit(rows)
    codes, test_codes = pca.transform(rows), pca.transform(test_rows)
    error = np.mean((pca.inverse_transform(test_codes) - test_rows) ** 2)
    assert metrics["pca_mse"] == pytest.approx(error, rel=1e-3)
    assert metrics["mse_to_pca"] == pytest.approx(metrics["mse"] / error, rel=1e-3)
    assert metrics["mse_to_pca"] > 1
    accuracy = probe_accuracy(codes, test_codes, labels, test_labels)
    assert metrics["pca_probe_accuracy"] == pytest.approx(accuracy, abs=0.01)
    assert metrics["test_images"] == len(test_images)


def test_no_more_images_are_measured_than_memory_takes(tmp_path, digits_config):
    digits_config.data.memory_gib = 8 * 100 * 4 * 28**2 / 2**30
    digits_config.num_epochs = 1e-6
    train(digits_config, str(tmp_path))
    assert evaluate(str(tmp_path))["test_images"] == 100


def test_the_best_checkpoint_can_be_measured(linear_run):
    rows = [json.loads(line) for line in (linear_run / workdir.METRICS_LOG).open()]
    validated = {row["step"]: row["loss"] for row in rows if row["split"] == "validation"}
    assert evaluate(str(linear_run), "best")["step"] == min(validated, key=validated.__getitem__)


def test_what_is_no_run_or_has_other_data_is_refused(linear_run, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        evaluate(str(tmp_path / "empty"))
    with monkeypatch.context() as patch:
        patch.setattr(data.Dataset, "fingerprint", lambda _: "other")
        with pytest.raises(UserError, match="was trained on other data"):
            evaluate(str(linear_run))
    (linear_run / workdir.CONFIG).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        evaluate(str(linear_run))
