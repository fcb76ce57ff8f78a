"""Anomalies: how errors and distances rank them, who they are, and the threshold."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation.test_evaluate import train_linear
from tests.verbs.sources import EXAMPLES, FEATURES, Source, config_of, vectors, write_table
from trainer import api
from trainer.data.dataset import Split, to_unit
from trainer.distribution.inference import map_batches
from trainer.errors import UserError
from trainer.evaluation.anomaly_options import AnomalyOptions
from trainer.evaluation.evaluate import evaluate, example_names
from trainer.evaluation.evaluated_model import EvaluatedModel
from trainer.evaluation.evaluators import anomalies, largest_distances, largest_errors
from trainer.monitoring import example_columns, figures
from trainer.run import restore
from trainer.run.distances import fit_distances
from trainer.training.train import train


def keeping_the_first_value(train, test, **fields):
    """A model of vectors that keeps the first value and makes all others 0."""
    decode = lambda codes: tf.pad(codes, [[0, 0], [0, train.shape[1] - 1]])  # noqa: E731
    model: Any = SimpleNamespace(encode=lambda rows: rows[:, :1], decode=decode, code_size=1)
    rows = (some.astype(np.float32) for some in (train, test))
    return EvaluatedModel(model, *rows, **fields)


def test_rankings_of_four_errors_are_those_counted_by_hand():
    # By error: anomaly, normal, anomaly, normal. 3 of the 4 pairs are in order; precision at the
    # anomalies is 1/1 and 2/3, a mean of 5/6; one of the two largest errors is an anomaly.
    test = np.array([[0, 4], [0, 3], [0, 2], [0, 1]])
    train = np.random.default_rng(0).normal(size=(50, 2))
    is_anomaly = np.array([True, False, True, False])
    train_anomalies = np.arange(50) < 3
    known = {"test_anomalies": is_anomaly, "train_anomalies": train_anomalies}
    metrics = anomalies.measure(keeping_the_first_value(train, test, **known)).metrics
    assert metrics["anomaly_auc"] == 0.75
    assert metrics["anomaly_average_precision"] == pytest.approx(5 / 6)
    assert metrics["anomaly_precision_at_n"] == 0.5
    assert (metrics["test_anomalies"], metrics["train_anomalies"]) == (2, 3)
    others = {f"{method}_anomaly_auc" for method in ("distance", "pca", "forest")}
    assert others <= metrics.keys()


def test_a_distance_of_whitened_values_is_that_of_mahalanobis():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(4000, 3)) @ generator.normal(size=(3, 3))
    residuals, codes = rows[:, :2] * 100, rows[:, 2:] / 100
    centred = rows - rows.mean(axis=0)
    exact = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(np.cov(rows.T)), centred) / 3
    ratio = fit_distances(residuals, codes).of(residuals, codes) / exact
    np.testing.assert_allclose(ratio, 1, rtol=0.05)  # little shrinkage, of so many rows


def test_a_distance_decreases_when_the_unusual_feature_is_set_to_its_mean():
    train = np.random.default_rng(0).normal(5, 1, (200, 4)).astype(np.float32)
    for feature in range(4):  # the first is the code, the others are residuals
        vector = np.full(4, 5, np.float32)
        vector[feature] = 30
        evaluated = keeping_the_first_value(train, vector[None])
        (decreases,) = largest_distances.distance_decreases(evaluated, np.array([0]))
        assert np.argmax(decreases) == feature
        assert decreases[feature] == pytest.approx(evaluated.test_distances[0], rel=0.01)
        assert largest_distances.measure(evaluated).figures.keys() == {"largest_distances"}


def test_features_are_labelled_with_their_distance_from_the_training_mean_in_stds():
    train = np.array([[1, 0.1], [3, 0.1]])
    names = {"feature_names": ("a", "b")}
    evaluated = keeping_the_first_value(train, np.array([[5, 0.1], [1, 0.3]]), **names)
    constant = "b (constant in training)"
    labels = evaluated.feature_labels(np.array([1, 0]))
    assert labels == [["a (-1.0)", constant], ["a (+3.0)", constant]]


def test_the_largest_errors_of_vectors_and_images_are_drawn_by_their_names(monkeypatch):
    drawn: dict[str, tuple[Any, ...]] = {}
    for module, draw in ((figures, "feature_shares"), (example_columns, "draw")):
        original = getattr(module, draw)
        monkeypatch.setattr(
            module,
            draw,
            lambda *arguments, draw=draw, original=original: (
                drawn.update({draw: arguments}) or original(*arguments)
            ),
        )
    rows = np.eye(4)[np.arange(12) % 4] * (1 + np.arange(12))[:, None]
    names = np.array([f"customer {'0' * 30}{number}" for number in range(12)])
    for given, label in (
        ({}, "row 11"),
        ({"test_names": names}, "customer 00…000000000011"),
        ({"test_labels": np.arange(12)}, "row 11 (11)"),
    ):
        ((name, figure),) = largest_errors.measure(
            keeping_the_first_value(rows, rows, **given)
        ).figures.items()
        assert name == "largest_errors"
        assert figure.dtype == np.uint8 and len(np.unique(figure)) > 5
        assert drawn["feature_shares"][2][0] == f"{label}, mse 36"

    images = rows.reshape(12, 2, 2, 1).astype(np.float32) / 12
    model: Any = SimpleNamespace(encode=lambda x: x, decode=lambda x: x * [[[0]]], code_size=4)
    known: dict[str, Any] = {
        "test_names": names,
        "test_labels": np.arange(12) % 2,
        "class_names": ("ok", "$dent$"),
    }
    figure = largest_errors.measure(EvaluatedModel(model, images, images, **known)).figures[
        "largest_errors"
    ]
    assert figure.ndim == 3
    _, titles, notes = drawn["draw"]
    assert titles[:2] == names[[11, 10]].tolist()
    assert notes[:2] == ["$dent$\nmse 0.25", "ok\nmse 0.21"]


def test_an_evaluation_that_names_no_anomaly_leaves_no_distances_of_images(tmp_path):
    train_linear(tmp_path)
    api.load(tmp_path).evaluate(anomaly_label="3")
    assert "distances" in api.load(tmp_path).scores("test")
    api.load(tmp_path).evaluate()
    assert "distances" not in api.load(tmp_path).scores("test")


def test_columns_are_titled_by_class_by_name_or_by_row():
    rows = np.eye(4)
    names = np.array(["a.png", "b.png", "c.png", "d.png"])
    for given, titles in (
        ({}, ["row 1", "row 3"]),
        ({"test_names": names}, ["b.png", "d.png"]),
        ({"test_names": names, "test_labels": np.arange(4)}, ["1", "3"]),
    ):
        evaluated = keeping_the_first_value(rows, rows, **given)
        assert evaluated.titles(np.array([1, 3])) == titles


def test_names_of_examples_are_files_ids_or_rows():
    rows = np.array([0, 2])
    images = np.zeros((3, 2))
    for fields, expected in (
        ({"file_names": np.array(["a/0.png", "a/1.png", "b/2.png"])}, ["0", "2"]),
        ({"file_names": np.array(["t/a/0.png", "", "t/b/0.png"])}, ["a/0", "b/0"]),
        ({"file_names": np.array(["a/0.png", "", "a/0.jpg"])}, ["a/0.png", "a/0.jpg"]),
        ({"ids": {"customer": np.array([7, 8, 9])}}, ["customer 7", "customer 9"]),
        ({"ids": {"customer": np.array(["C7", "C8", "C9"])}}, ["C7", "C9"]),
        ({}, ["row 0", "row 2"]),
    ):
        assert example_names(Split(images, None, **fields), rows).tolist() == expected


def test_the_threshold_is_a_quantile_of_the_validation_errors_and_is_kept(tmp_path):
    train_linear(tmp_path)
    given = AnomalyOptions(anomaly_label=["4"], error_quantile=0.8)
    metrics = evaluate(str(tmp_path), anomalies=given)
    run = restore.load(tmp_path)
    images = to_unit(run.dataset.validation.read()[0])
    errors = np.square(map_batches(run.model, images) - images).mean(axis=(1, 2, 3))
    assert metrics["error_threshold"] == pytest.approx(np.quantile(errors, 0.8), rel=1e-4)
    assert metrics["test_anomalies"] == np.count_nonzero(run.dataset.test.labels == 4)
    images = to_unit(run.dataset.test.read()[0])
    errors = np.square(map_batches(run.model, images) - images).mean(axis=(1, 2, 3))
    above = np.count_nonzero(errors > metrics["error_threshold"])
    assert 0 < metrics["test_errors_above_threshold"] == above < len(images)
    again = evaluate(str(tmp_path))
    assert again["error_threshold"] == metrics["error_threshold"]
    assert "anomaly_auc" in metrics and "anomaly_auc" not in again


@pytest.mark.parametrize(
    "options", [{"normal_label": ["ok"]}, {"anomaly_label": ["dent", "scratch"]}]
)
def test_a_table_of_normal_rows_is_evaluated_with_the_defects_of_another(tmp_path, options):
    kinds = np.array(["ok", "dent", "scratch"])
    write_table(tmp_path / "train.csv", vectors(), kind=kinds[np.zeros(EXAMPLES, int)])
    write_table(tmp_path / "test.csv", vectors(seed=1), kind=kinds[np.arange(EXAMPLES) % 3])
    name = f"table:{tmp_path / 'train.csv'},{tmp_path / 'test.csv'}"
    source = Source({"name": name, "label_column": "kind"}, (FEATURES,), True, "")
    train(config_of("linear", source), str(tmp_path / "run"))
    metrics = evaluate(str(tmp_path / "run"), anomalies=AnomalyOptions(**options))
    assert metrics["train_anomalies"] == 0
    assert metrics["test_anomalies"] == np.count_nonzero(np.arange(EXAMPLES) % 3)
    assert "anomaly_auc" in metrics and "probe_accuracy" not in metrics  # of one class alone
    api.load(tmp_path / "run").encode("test")  # with labels that the training lacks


def test_wrong_classes_and_quantiles_are_refused():
    split = SimpleNamespace(labels=np.array([0, 1, 2]))
    dataset: Any = SimpleNamespace(train=split, validation=split, test=split, class_names=())
    for options, named in (
        ({"anomaly_label": ["3"]}, "anomaly_label='3' is not a class"),
        ({"normal_label": ["0", "1", "2"]}, "all test examples normal"),
        ({"normal_label": ["0"], "anomaly_label": ["1"]}, "both given"),
        ({"error_quantile": 1.0}, r"error_quantile=1\.0"),
    ):
        with pytest.raises(UserError, match=named):
            AnomalyOptions(**options).check()
            AnomalyOptions(**options).check_classes(dataset)
    split.labels = None
    with pytest.raises(UserError, match="needs labels"):
        AnomalyOptions(normal_label=["0"]).check_classes(dataset)
