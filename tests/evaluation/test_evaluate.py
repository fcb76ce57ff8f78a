"""An evaluation as a whole: what it reads, writes and refuses."""

import json

import numpy as np
import pytest
from sklearn.decomposition import PCA

from tests.runs import logged, stop_after
from tests.verbs.sources import SIDE, Source, config_of
from trainer import data
from trainer.config import make_data
from trainer.data.dataset import to_unit
from trainer.errors import Preempted
from trainer.evaluation.evaluate import evaluate, print_table
from trainer.evaluation.evaluators.probe import probe_accuracy
from trainer.run import workdir
from trainer.training.train import train


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


def test_the_values_of_the_table_are_in_one_column(capsys):
    hidden = {"test_fingerprint": "a" * 64, "goodput/start": 0.5}
    print_table({"mse": 0.5, **hidden, "a_name_longer_than_any_other": 0.25}, "runs/x")
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.index("0.5") == second.index("0.25")


def test_the_table_says_what_is_not_finished_and_what_would_help(capsys):
    fine = {"step": 9, "last_step": 9, "finished": True, "code_size": 3, "mse_to_pca": 1.0}
    fine["mean_largest_probability"] = 0.999
    for changes, line in (
        ({}, ""),
        (
            {"finished": False, "step": 5},
            "step 5 of 9; python -m trainer --workdir=runs/x resumes it",
        ),
        (
            {"mse_to_pca": 1.01},
            "PCA with 3 components has a smaller error. largest_errors.png shows",
        ),
        ({"mse_to_pca": 1.01, "pca_components": 2}, "PCA with 2 components has"),
        ({"mean_largest_probability": 0.5}, "have not settled: their mean largest probability"),
    ):
        print_table(fine | changes, "runs/x")
        _, *paragraphs, _ = capsys.readouterr().out.split("\n\n")
        assert len(paragraphs) == (line != "")
        assert line in "".join(paragraphs)


def train_linear(folder, **changes):
    """Trains a linear model on digits of 8x8 pixels."""
    config = config_of("linear", Source({"name": "digits", "image_size": SIDE}, (), True, ""))
    config.update_from_flattened_dict(changes)
    train(config, str(folder))


def test_a_checkpoint_is_measured_with_pca_on_the_images_of_the_run(tmp_path):
    large = {"optimizer.learning_rate": 0.3, "optimizer.schedule": "constant"}  # so no descent
    every = {"validate_every_steps": 2, "checkpoint_every_steps": 2}
    train_linear(tmp_path, num_epochs=0.07, **large, **every)
    validated = {
        row["step"]: row["loss"] for row in logged(tmp_path) if row["split"] == "validation"
    }
    best = min(validated, key=validated.__getitem__)
    assert best < max(validated)
    metrics = evaluate(str(tmp_path), "best")
    assert metrics["step"] == best < metrics["last_step"] == max(validated)
    assert metrics["finished"]  # though its best checkpoint is an earlier one
    assert json.loads((tmp_path / workdir.METRICS).read_text()) == metrics
    assert (tmp_path / "reconstructions.png").read_bytes().startswith(b"\x89PNG")

    digits = data.load(make_data("digits", image_size=SIDE))
    (images, labels), (test_images, test_labels) = digits.train.read(), digits.test.read()
    rows, test_rows = (to_unit(some).reshape(len(some), -1) for some in (images, test_images))
    pca = PCA(3).fit(rows)
    codes, test_codes = pca.transform(rows), pca.transform(test_rows)
    error = np.mean((pca.inverse_transform(test_codes) - test_rows) ** 2)
    assert metrics["pca_mse"] == pytest.approx(error, rel=1e-3)
    assert metrics["mse_to_pca"] == pytest.approx(metrics["mse"] / error, rel=1e-3)
    assert metrics["mse_to_pca"] > 1
    accuracy = probe_accuracy(codes, test_codes, labels, test_labels)
    assert metrics["pca_probe_accuracy"] == pytest.approx(accuracy, abs=0.01)
    assert metrics["test_examples"] == len(test_images)
    assert metrics["test_fingerprint"] == digits.fingerprint(["test"])


def test_no_more_images_are_measured_than_memory_takes(tmp_path):
    train_linear(tmp_path, **{"data.memory_gib": 8 * 100 * 4 * SIDE**2 / 2**30})
    assert evaluate(str(tmp_path))["test_examples"] == 100


def test_pca_is_fitted_once_for_all_runs_on_the_same_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fitted = []
    original = PCA.fit

    def fit(self, rows):
        fitted.append(self)
        return original(self, rows)

    monkeypatch.setattr(PCA, "fit", fit)
    alone = {}
    for code_size in (3, 2):
        run = tmp_path / str(code_size)
        train_linear(run, num_epochs=0.1, **{"model.code_size": code_size})
        alone[code_size] = evaluate(str(run))
        (tmp_path / "cache").rename(tmp_path / f"cache-{code_size}")
    of_the_subspace = 2  # principal components recovered from the decoder's
    assert len(fitted) == 2 + of_the_subspace
    (tmp_path / "cache-3").rename(tmp_path / "cache")
    for code_size, count in ((3, 1), (2, 1), (2, 1)):  # two components are among the three
        fitted.clear()
        metrics = evaluate(str(tmp_path / str(code_size)))
        assert len(fitted) == count
        assert metrics == alone[code_size]
        assert {"pca_mse", "pca_probe_accuracy"} < metrics.keys()


def test_a_run_that_was_stopped_is_not_finished(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        stop_after(patch, 1)
        train_linear(tmp_path, num_epochs=0.1, steps_per_call=1)
    metrics = evaluate(str(tmp_path))
    assert (metrics["step"], metrics["finished"]) == (1, False)
    train_linear(tmp_path, num_epochs=0.1, steps_per_call=1)
    metrics = evaluate(str(tmp_path))
    assert metrics["finished"]
    assert metrics["step"] == metrics["last_step"] > 1
