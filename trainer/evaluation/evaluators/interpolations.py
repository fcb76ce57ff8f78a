"""The way from one test image to another through the codes."""

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.monitoring import figures

ORDER = 92
_PAIRS = 10
_STEPS = 10


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether there is a prior, under which the codes between two codes are likely too."""
    return evaluated.has_prior and len(evaluated.test) > 1


def measure(evaluated: EvaluatedModel) -> Result:
    """Draws `interpolations`, a row a pair: equal steps between the codes of the two images."""
    share = np.linspace(0, 1, _STEPS, dtype=np.float32)[:, np.newaxis]
    rows = []
    for first in range(0, min(2 * _PAIRS, len(evaluated.test) - 1), 2):
        start, end = evaluated.codes[first : first + 2]
        between = evaluated.model.decode((1 - share) * start + share * end)
        images = evaluated.test[first : first + 2]
        rows.append(np.concatenate([images[:1], between, images[1:]]))
    grid = figures.grid(np.concatenate(rows), columns=len(rows[0]))
    return Result({}, {"interpolations": grid})
