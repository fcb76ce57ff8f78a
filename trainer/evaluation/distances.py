"""Measures how unusual an example's residual and code are, by a Mahalanobis distance."""

from typing import Self

import numpy as np

_MIN_STD = 0.03  # of a residual or a code, in their mean stds


class Distances:
    """Measures distances from training examples, whose covariance is Ledoit and Wolf's estimate.

    Where the reconstruction error counts the residual alone, and each value of it alike, a distance
    counts the code too, and values by how much they usually vary.
    """

    def fit(self, residuals: np.ndarray, codes: np.ndarray) -> Self:
        """Takes the residuals [N, D] and codes [N, K] of the training examples."""
        from sklearn.covariance import LedoitWolf

        self._stds = [_stds(values) for values in (residuals, codes)]
        self.covariance = LedoitWolf().fit(self._scaled(residuals, codes))
        return self

    def of(self, residuals: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Returns the squared distances of examples divided by D + K, float64 [N]."""
        scaled = self._scaled(residuals, codes)
        return self.covariance.mahalanobis(scaled) / scaled.shape[1]

    def _scaled(self, residuals: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Returns residuals and codes in standard deviations, float64 [N, D + K]."""
        parts = zip((residuals, codes), self._stds, strict=True)
        return np.concatenate([values / std for values, std in parts], axis=1)


def _stds(values: np.ndarray) -> np.ndarray:
    """Returns the std of each column, float64 [D]; of columns that hardly vary, a larger one."""
    stds = values.std(axis=0, dtype=np.float64)
    return np.maximum(stds, _MIN_STD * stds.mean() or 1.0)
