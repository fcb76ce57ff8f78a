"""Measures how sparse the codes of the test images are, and how well they can be classified."""

from typing import Any

import numpy as np

from trainer.evaluation.evaluators import Column, EvaluatedModel, Result
from trainer.evaluation.evaluators.probe import TOLERANCE
from trainer.monitoring import figures

ORDER = 70
COLUMNS = (
    Column("active_units_mean", "active units", ".1f"),
    Column("dead_units_share", "dead units", ".1%"),
)
_BINS = 50
_PENALTY_SHARE = 600  # mean loss + |w|^2 / (2 * 600); chosen by validation


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the model defines the |activation| above which a unit is active."""
    return hasattr(evaluated.model, "active_above")


def measure(evaluated: EvaluatedModel) -> Result:
    """Counts the active units of the test codes; draws a histogram and the first filters.

    A unit is active where its |activation| is above `active_above`. `active_units_mean` is the mean
    number of active units of an image; `dead_units_share` the share of the units that are active in
    no test image; `mean_activation_counts` is the histogram, with `mean_activation_edges`, of the
    units' mean |activation| over the images. `explained_variance` is 1 - the sum of the squared
    errors / the sum of the squared deviations from the mean test image, unless all images are
    equal. If the data have classes, `linear_classifier_error` is the result of
    `linear_classifier_error()`.
    """
    active_above = evaluated.model.active_above
    sizes = np.abs(evaluated.codes)
    active = sizes > active_above
    counts, edges = (array.tolist() for array in np.histogram(sizes.mean(axis=0), bins=_BINS))
    metrics: dict[str, Any] = {
        "active_above": active_above,
        "active_units_mean": float(active.sum(axis=1).mean()),
        "dead_units_share": float(1 - active.any(axis=0).mean()),
        "mean_activation_counts": counts,
        "mean_activation_edges": edges,
    }
    mean = evaluated.test.mean(axis=0, dtype=np.float64)  # float32 would sum many rows badly
    deviations = np.square(evaluated.test - mean).sum()
    if deviations:
        errors = np.square(evaluated.reconstructions - evaluated.test, dtype=np.float64).sum()
        metrics["explained_variance"] = float(1 - errors / deviations)
    if evaluated.has_classes:
        metrics["linear_classifier_error"] = linear_classifier_error(evaluated)
    axes = "mean |activation| over the test examples", "number of units"
    title = f"activity of the {len(evaluated.codes[0]):,} units of the code"
    plots = {"activations": figures.bars(edges, counts, title, *axes)}
    filters = evaluated.model.filters()
    if filters is not None:
        plots["filters"] = figures.labelled_grid("filters", **vars(filters))
    return Result(metrics, plots)


def linear_classifier_error(evaluated: EvaluatedModel) -> float:
    """Returns the test error of logistic regression on codes that keep their scales.

    All units are divided by the root mean square of the training codes. If each unit were divided
    by its own std, as in `probe`, the rarest units would count the most. The weights are penalised,
    since 1,000 units separate all training images.
    """
    from sklearn.linear_model import LogisticRegression

    codes = evaluated.train_codes
    scale = max(float(np.sqrt(np.square(codes).mean())), np.finfo(np.float32).tiny)
    classifier = LogisticRegression(C=_PENALTY_SHARE / len(codes), max_iter=1000, tol=TOLERANCE)
    classifier.fit(codes / scale, evaluated.train_labels)
    return 1 - float(classifier.score(evaluated.codes / scale, evaluated.test_labels))
