"""Measures how unusual examples are by mean squared errors and by a Mahalanobis distance."""

import dataclasses

import numpy as np

_BLOCK_ROWS = 4096  # at a time, since float64 takes twice the memory of the examples
_MIN_STD = 0.03  # of a residual or a code, in their mean stds


@dataclasses.dataclass(frozen=True)
class Distances:
    """Measures distances from training examples.

    Unlike the reconstruction error, a distance includes the code, and scales each value by how much
    it usually varies.
    """

    stds: np.ndarray  # float64 [D + K], of the residuals and then of the codes
    location: np.ndarray  # float64 [D + K], the mean in these stds
    precision: np.ndarray  # float64 [D + K, D + K], the inverse of the covariance in these stds

    def of(self, residuals: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Returns the squared distances divided by D + K, float64 [N].

        Args:
          residuals: [N, ...] with D values each.
          codes: [N, K].
        """
        distances = np.empty(len(codes))
        for start in range(0, len(codes), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            deviations = _joined(residuals[rows], codes[rows]) / self.stds - self.location
            distances[rows] = np.einsum("ni,ni->n", deviations @ self.precision, deviations)
        return distances / len(self.stds)


def mean_squared_errors(residuals: np.ndarray) -> np.ndarray:
    """Returns the mean square of each example's residual [N, ...], float64 [N]."""
    axes = tuple(range(1, residuals.ndim))
    return np.square(residuals, dtype=np.float64).mean(axis=axes)


def fit_distances(residuals: np.ndarray, codes: np.ndarray) -> Distances:
    """Fits distances to the residuals [N, ...] and codes [N, K] of the training examples.

    The covariance is Ledoit and Wolf's estimate.
    """
    from sklearn.covariance import LedoitWolf

    stds = np.concatenate([_stds(residuals.reshape(len(residuals), -1)), _stds(codes)])
    fitted = LedoitWolf().fit(_joined(residuals, codes) / stds)
    return Distances(stds, fitted.location_, fitted.precision_)


def _joined(residuals: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Returns residuals [N, ...] and codes [N, K] side by side, [N, D + K]."""
    return np.concatenate([residuals.reshape(len(residuals), -1), codes], axis=1)


def _stds(values: np.ndarray) -> np.ndarray:
    """Returns the std of each column, float64 [D]; of columns that hardly vary, a larger one."""
    stds = values.std(axis=0, dtype=np.float64)
    return np.maximum(stds, _MIN_STD * stds.mean() or 1.0)
