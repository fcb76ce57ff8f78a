"""Measures how much the encoder contracts around the test images."""

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.monitoring import figures

ORDER = 60
_IMAGES = 100
_MAX_JACOBIANS = 50  # in memory at once


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the model gives its encoder's Jacobian."""
    return hasattr(evaluated.model, "jacobian")


def measure(evaluated: EvaluatedModel) -> Result:
    """Measures the Jacobian J of the encoder at the first test images.

    `jacobian_norm` is the mean of ||J||_F. `jacobian_norm_to_spread`, `jacobian_norm` over the root
    of the codes' total variance, does not depend on the scale of the code. `singular_values` has
    the mean of each singular value of J, the largest first, as plotted by Rifai et al. 2011.
    """
    images = evaluated.test[:_IMAGES]
    values = np.concatenate([
        _singular_values(evaluated, images[first : first + _MAX_JACOBIANS])
        for first in range(0, len(images), _MAX_JACOBIANS)
    ])  # fmt: skip
    norm = float(np.sqrt(np.square(values).sum(axis=1)).mean())
    spread = float(np.sqrt(evaluated.codes.var(axis=0).sum()))
    means = values.mean(axis=0).tolist()
    metrics = {
        "jacobian_norm": norm,
        "jacobian_norm_to_spread": norm / spread if spread > 0 else None,
        "singular_values": means,
    }
    title = "singular values of the encoder's Jacobian"
    axes = "number, the largest first", f"mean over {len(images)} test examples"
    lines = figures.lines(range(1, len(means) + 1), {"mean": means}, title, *axes)
    return Result(metrics, {"singular_values": lines})


def _singular_values(evaluated: EvaluatedModel, images: np.ndarray) -> np.ndarray:
    """Returns the singular values of each image's J [N, min(K, D)], the largest first."""
    jacobians = evaluated.map(evaluated.model.jacobian, images)
    matrices = jacobians.reshape(*jacobians.shape[:2], -1).astype(np.float64)
    transposed = matrices.transpose(0, 2, 1)
    # Takes the roots of the smaller product's eigenvalues, several times faster than an SVD.
    wide = matrices.shape[1] <= matrices.shape[2]
    squares = np.linalg.eigvalsh(matrices @ transposed if wide else transposed @ matrices)
    return np.sqrt(np.maximum(squares, 0))[:, ::-1]
