"""Draws the test vectors of the largest distances, and which features make them distant."""

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.monitoring import figures

ORDER = 6
FIGURE = "largest_distances"


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the test examples are vectors that have distances."""
    return evaluated.test.ndim == 2 and evaluated.distances is not None


def measure(evaluated: EvaluatedModel) -> Result:
    """Draws `largest_distances`, with the features whose values make the distances large."""
    distances = evaluated.test_distances
    assert distances is not None
    shown = np.argsort(-distances, kind="stable")[: figures.COLUMNS]
    figure = figures.feature_shares(
        distance_decreases(evaluated, shown),
        evaluated.feature_labels(shown),
        evaluated.vector_labels(shown, [f"distance {value:.2g}" for value in distances[shown]]),
        "largest distances, by feature",
        f"share of the decrease in distance when the feature is set to its mean\n{figures.STDS}",
    )
    return Result({}, {FIGURE: figure})


def distance_decreases(evaluated: EvaluatedModel, shown: np.ndarray) -> np.ndarray:
    """Returns by how much distances decrease when one feature is set to its training mean.

    Takes the rows [n] of test vectors; returns float64 [n, D], 0 where the distance increases.
    """
    assert evaluated.distances is not None and evaluated.test_distances is not None
    size = evaluated.test.shape[1]
    changed = np.repeat(evaluated.test[shown], size, axis=0).reshape(len(shown), size, size)
    changed[:, np.arange(size), np.arange(size)] = evaluated.train.mean(axis=0, dtype=np.float64)
    vectors = changed.reshape(-1, size)
    codes = evaluated.map(evaluated.model.encode, vectors)
    residuals = vectors - evaluated.map(evaluated.model.decode, codes)
    distances = evaluated.distances.of(residuals, codes).reshape(len(shown), size)
    return np.maximum(evaluated.test_distances[shown, None] - distances, 0)
