"""Measures how well errors rank anomalies of the test split above normal examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.evaluation.evaluators import Column, EvaluatedModel, Result

ORDER = 35
COLUMNS = (
    Column("anomaly_auc", "anomaly AUC", ".3f"),
    Column("distance_anomaly_auc", "distance AUC", ".3f"),
    Column("pca_anomaly_auc", "PCA AUC", ".3f"),
    Column("forest_anomaly_auc", "forest AUC", ".3f"),
)


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the labels say which examples are anomalies."""
    return evaluated.test_anomalies is not None


def measure(evaluated: EvaluatedModel) -> Result:
    """Measures how the test errors rank `test_anomalies`, of n examples.

    `anomaly_auc` is the area under the ROC curve, `anomaly_average_precision` the one under the
    precision-recall curve, `anomaly_precision_at_n` the share of anomalies among the n largest
    errors. `distance_…` are of `run.distances`, unless there are too many values; `pca_…` of PCA's
    errors with a code of the same size, `forest_…` of scikit-learn's isolation forest: fitted to
    the same training examples, without labels, as the model. `train_anomalies` is the number of
    anomalies among these.
    """
    from sklearn.ensemble import IsolationForest

    anomalies, train_anomalies = evaluated.test_anomalies, evaluated.train_anomalies
    assert anomalies is not None and train_anomalies is not None
    metrics: dict[str, Any] = {
        "test_anomalies": int(anomalies.sum()),
        "train_anomalies": int(train_anomalies.sum()),
    }
    metrics |= ranking_metrics(anomalies, evaluated.test_errors)
    if evaluated.test_distances is not None:
        metrics |= _prefixed("distance", ranking_metrics(anomalies, evaluated.test_distances))
    if evaluated.is_undercomplete:
        metrics |= _prefixed("pca", ranking_metrics(anomalies, evaluated.pca_errors))
    forest = IsolationForest(random_state=0, n_jobs=-1).fit(evaluated.train_rows)
    scores = -forest.score_samples(evaluated.test_rows)
    return Result(metrics | _prefixed("forest", ranking_metrics(anomalies, scores)))


def advice(metrics: Mapping[str, Any]) -> str:
    """Says what the training knew of anomalies."""
    if "train_anomalies" not in metrics:
        return ""
    count = metrics["train_anomalies"]
    return (
        f"The training examples hold {count:,} anomalies; no method was told which. "
        "--config.trim_share leaves the largest losses out of a training."
        if count
        else "The training examples hold no anomaly."
    )


def ranking_metrics(anomalies: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Returns how scores [N], large for anomalies, bool [N], rank them."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    largest = np.argsort(-scores, kind="stable")[: anomalies.sum()]
    return {
        "anomaly_auc": float(roc_auc_score(anomalies, scores)),
        "anomaly_average_precision": float(average_precision_score(anomalies, scores)),
        "anomaly_precision_at_n": float(anomalies[largest].mean()),
    }


def _prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}
