"""Draws the test examples of the largest errors, and where in them the errors are."""

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.evaluation.evaluators.reconstruction import squared_errors
from trainer.monitoring import figures

ORDER = 5
FIGURE = "strangest"


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns True: every kind reconstructs."""
    del evaluated
    return True


def measure(evaluated: EvaluatedModel) -> Result:
    """Draws `strangest`: the largest errors, of images with a map, of vectors by their features."""
    errors = squared_errors(evaluated.test, evaluated.reconstructions)
    shown = np.argsort(-errors, kind="stable")[: figures.COLUMNS]
    images, rebuilt = evaluated.test[shown], evaluated.reconstructions[shown]
    titles = evaluated.names(shown) or [f"example {row}" for row in shown]
    squares = np.square(rebuilt - images, dtype=np.float64)
    if images.ndim == 2:
        names = evaluated.feature_names or [str(number) for number in range(images.shape[1])]
        labels = [
            f"{title}, mse {error:.2g}" for title, error in zip(titles, errors[shown], strict=True)
        ]
        return Result({}, {FIGURE: figures.error_shares(squares, names, labels)})
    maps = np.sqrt(squares.mean(axis=-1, keepdims=True))
    rows = {"original": images, "reconstruction": rebuilt, "error": maps / max(maps.max(), 1e-12)}
    notes = [f"mse {error:.2g}" for error in errors[shown]]
    return Result({}, {FIGURE: figures.reconstructions(rows, titles, notes)})
