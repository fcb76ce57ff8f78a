"""Draws the test examples of the largest errors, and where in them the errors are."""

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.monitoring import example_columns, figures

ORDER = 5
FIGURE = "largest_errors"


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns True: every kind reconstructs."""
    del evaluated
    return True


def measure(evaluated: EvaluatedModel) -> Result:
    """Draws `largest_errors`: of images with a map of the errors, of vectors by their features."""
    errors = evaluated.test_errors
    shown = np.argsort(-errors, kind="stable")[: figures.COLUMNS]
    images, rebuilt = evaluated.test[shown], evaluated.reconstructions[shown]
    squares = np.square(rebuilt - images, dtype=np.float64)
    notes = [f"mse {error:.2g}" for error in errors[shown]]
    if images.ndim == 2:
        figure = figures.feature_shares(
            squares,
            evaluated.feature_labels(shown),
            evaluated.vector_labels(shown, notes),
            "largest errors, by feature",
            f"share of the squared error\n{figures.STDS}",
        )
        return Result({}, {FIGURE: figure})
    classes = evaluated.class_labels(shown)
    if classes:
        notes = ["\n".join(pair) for pair in zip(classes, notes, strict=True)]
    maps = np.sqrt(squares.mean(axis=-1, keepdims=True))
    rows = {"original": images, "reconstruction": rebuilt, "error": maps / max(maps.max(), 1e-12)}
    return Result({}, {FIGURE: example_columns.draw(rows, evaluated.names(shown), notes)})
