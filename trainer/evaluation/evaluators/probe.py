"""Measures by a linear probe how well logistic regression classifies frozen codes."""

import numpy as np

from trainer.evaluation.evaluators import Column, EvaluatedModel, Result

ORDER = 20
COLUMNS = (
    Column("probe_accuracy", "probe", ".1%"),
    Column("pca_probe_accuracy", "PCA probe", ".1%"),
)
TOLERANCE = 2e-4  # of the gradient; a smaller one takes minutes on large codes and gains nothing


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the data have classes."""
    return evaluated.has_classes


def measure(evaluated: EvaluatedModel) -> Result:
    """Measures `probe_accuracy` and, if the code is undercomplete, `pca_probe_accuracy`."""
    labels = evaluated.train_labels, evaluated.test_labels
    metrics = {"probe_accuracy": probe_accuracy(evaluated.train_codes, evaluated.codes, *labels)}
    if evaluated.is_undercomplete:
        metrics["pca_probe_accuracy"] = evaluated.kept_number(
            "pca_probe_accuracy", lambda: _pca_probe_accuracy(evaluated)
        )
    return Result(metrics)


def probe_accuracy(
    train_codes: np.ndarray,
    test_codes: np.ndarray,
    train_labels: np.ndarray | None,
    test_labels: np.ndarray | None,
) -> float:
    """Returns the test accuracy of logistic regression on standardised codes [N, K]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=TOLERANCE))
    with threadpool_limits(1, user_api="blas"):  # the products are too thin for more threads
        return float(probe.fit(train_codes, train_labels).score(test_codes, test_labels))


def _pca_probe_accuracy(evaluated: EvaluatedModel) -> float:
    train, test = map(evaluated.pca.transform, (evaluated.train_rows, evaluated.test_rows))
    return probe_accuracy(train, test, evaluated.train_labels, evaluated.test_labels)
