"""Measures how well the selected features predict images and labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.models import concrete
from trainer.monitoring import figures

ORDER = 80
_TREES = 50  # as Abid et al. 2019


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the code is a subset of the image's values."""
    return hasattr(evaluated.model, "selected_pixels")


def measure(evaluated: EvaluatedModel) -> Result:
    """Measures what can be learnt from the selected pixels; marks the pixels on the mean image.

    `selected_pixels` are in the order of the code; `mean_largest_probability` is the model's. All
    other metrics are test results of models fitted to the training images: `linear_readout_mse` of
    a linear regression of all pixels on the selected pixels and, if there are labels,
    `extra_trees_accuracy` of 50 extremely randomised trees on the selected pixels, and
    `pca_extra_trees_accuracy` of such trees on as many components of PCA.
    """
    from sklearn.linear_model import LinearRegression

    model = evaluated.model
    pixels = model.selected_pixels()
    train, test = evaluated.train_rows, evaluated.test_rows
    readout = LinearRegression().fit(train[:, pixels], train)
    error = np.square(readout.predict(test[:, pixels]) - test).mean(dtype=np.float64)
    metrics: dict[str, Any] = {
        "selected_pixels": pixels.tolist(),
        "mean_largest_probability": model.mean_largest_probability(),
        "linear_readout_mse": float(error),
    }
    if evaluated.train_labels is not None and evaluated.test_labels is not None:
        labels = evaluated.train_labels, evaluated.test_labels

        def accuracy_on_pca() -> float:
            pca = evaluated.pca
            return _trees_accuracy(pca.transform(train), pca.transform(test), *labels)

        on_pixels = _trees_accuracy(train[:, pixels], test[:, pixels], *labels)
        on_pca = evaluated.kept_number("pca_extra_trees_accuracy", accuracy_on_pca)
        metrics |= {"extra_trees_accuracy": on_pixels, "pca_extra_trees_accuracy": on_pca}
    marked = model.marked_pixels(evaluated.train)
    name = "selected_pixels"
    plots = {} if marked is None else {name: figures.labelled_grid(name, **vars(marked))}
    return Result(metrics, plots)


def advice(metrics: Mapping[str, Any]) -> str:
    """Says so if the selectors have not settled."""
    return concrete.advice(metrics.get("mean_largest_probability", 1.0))


def _trees_accuracy(
    train: np.ndarray, test: np.ndarray, train_labels: np.ndarray, test_labels: np.ndarray
) -> float:
    from sklearn.ensemble import ExtraTreesClassifier

    trees = ExtraTreesClassifier(_TREES, random_state=0, n_jobs=-1)
    return float(trees.fit(train, train_labels).score(test, test_labels))
