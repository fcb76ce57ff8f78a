"""Draws the test examples of the largest errors, and where in them the errors are."""

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.evaluation.evaluators.reconstruction import squared_errors
from trainer.monitoring import example_columns, figures

ORDER = 5
FIGURE = "largest_errors"
_MAX_NAME = 24  # characters of what a vector is called


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns True: every kind reconstructs."""
    del evaluated
    return True


def measure(evaluated: EvaluatedModel) -> Result:
    """Draws `largest_errors`: of images with a map of the errors, of vectors by their features."""
    errors = squared_errors(evaluated.test, evaluated.reconstructions)
    shown = np.argsort(-errors, kind="stable")[: figures.COLUMNS]
    images, rebuilt = evaluated.test[shown], evaluated.reconstructions[shown]
    squares = np.square(rebuilt - images, dtype=np.float64)
    names, classes = evaluated.names(shown), evaluated.test_class_names
    notes = [f"mse {error:.2g}" for error in errors[shown]]
    kinds = [] if classes is None else [figures.shortened(str(name)) for name in classes[shown]]
    if images.ndim == 2:
        names = [figures.shortened(name, _MAX_NAME) for name in names]
        if kinds:
            names = [f"{name} ({kind})" for name, kind in zip(names, kinds, strict=True)]
        labels = [", ".join(pair) for pair in zip(names, notes, strict=True)]
        features = evaluated.feature_names or [*map(str, range(images.shape[1]))]
        return Result({}, {FIGURE: figures.error_shares(squares, features, labels)})
    if kinds:
        notes = ["\n".join(pair) for pair in zip(kinds, notes, strict=True)]
    maps = np.sqrt(squares.mean(axis=-1, keepdims=True))
    rows = {"original": images, "reconstruction": rebuilt, "error": maps / max(maps.max(), 1e-12)}
    return Result({}, {FIGURE: example_columns.draw(rows, names, notes)})
