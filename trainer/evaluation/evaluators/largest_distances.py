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
    """Draws `largest_distances`, by their falls if one feature gets its training mean."""
    distances = evaluated.test_distances
    assert distances is not None
    shown = np.argsort(-distances, kind="stable")[: figures.COLUMNS]
    figure = figures.feature_shares(
        np.stack([falls(evaluated, evaluated.test[row]) for row in shown]),
        evaluated.feature_labels(shown),
        evaluated.vector_labels(shown, [f"distance {value:.2g}" for value in distances[shown]]),
        "largest distances, by feature",
        f"share in the falls of the distance with the feature at its mean\n{figures.STANDARDISED}",
    )
    return Result({}, {FIGURE: figure})


def falls(evaluated: EvaluatedModel, vector: np.ndarray) -> np.ndarray:
    """Returns by how much the distance falls if a feature gets its training mean, float64 [D].

    0 for features with which it rises.
    """
    changed = np.tile(vector, (len(vector), 1))
    np.fill_diagonal(changed, evaluated.train.mean(axis=0))
    before = evaluated.distances_of(vector[None])
    return np.maximum(before - evaluated.distances_of(changed), 0)
