"""Draws what a prior over the codes generates."""

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.monitoring import figures

ORDER = 91
_MAX_SAMPLES = 100  # and at most the number of test images
_PAIRS = 10
_STEPS = 10


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the model has a prior."""
    return evaluated.model.prior_codes(evaluated.noise(1)) is not None


def measure(evaluated: EvaluatedModel) -> Result:
    """Draws `prior_samples`, `interpolations` and, for a code of two values, `manifold`.

    Each row of the interpolations leads from one test image to another by equal steps between the
    two codes.
    """
    model = evaluated.model
    samples = evaluated.map(
        lambda _, noise: model.decode(model.prior_codes(noise)),
        evaluated.test[:_MAX_SAMPLES],
        with_noise=True,
    )
    plots = {"prior_samples": figures.labelled_grid("prior_samples", samples, figures.COLUMNS)}
    if len(evaluated.test) > 1:
        plots["interpolations"] = _interpolations(evaluated)
    manifold = model.manifold()
    if manifold is not None:
        plots["manifold"] = figures.labelled_grid("manifold", **vars(manifold))
    return Result({}, plots)


def _interpolations(evaluated: EvaluatedModel) -> np.ndarray:
    share = np.linspace(0, 1, _STEPS, dtype=np.float32)[:, np.newaxis]
    rows = []
    for first in range(0, min(2 * _PAIRS, len(evaluated.test) - 1), 2):
        start, end = evaluated.codes[first : first + 2]
        between = evaluated.model.decode((1 - share) * start + share * end)
        images = evaluated.test[first : first + 2]
        rows.append(np.concatenate([images[:1], between, images[1:]]))
    return figures.labelled_grid("interpolations", np.concatenate(rows), columns=len(rows[0]))
