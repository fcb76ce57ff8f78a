"""Detects outliers in tables [N, D] by an autoencoder, with scikit-learn's interface."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from trainer.run.distances import fit_distances, mean_squared_errors
from trainer.sklearn import FLOATS, AutoencoderTransformer

_ERRORS = ("mahalanobis", "mse")
_MIN_STEPS = 300
_MIN_EPOCHS = 4
_MIN_BATCH_SIZE, _MAX_BATCH_SIZE = 64, 256
_ROWS_PER_BATCH_ROW = 100  # of tables with batches between these sizes
# A compilation takes longer than these steps, and so do many short calls.
_SETTINGS = {"execution": "graph", "steps_per_call": 100}
_AUTO_CONTAMINATION = 0.05
_MAX_VALUES = 3072  # of features and codes, whose covariance takes 10 s of CPU time to invert


class AutoencoderDetector(OutlierMixin, BaseEstimator):
    """Finds the rows of a table [N, D] that an autoencoder describes badly.

    Needs no labels, and learns from rows of which a few are outliers.

    Attributes after `fit`:
      autoencoder_: the fitted `AutoencoderTransformer`.
      distances_: the fitted `Distances` of residuals and codes; None with error="mse".
      offset_: the score below which a row is an outlier.
      n_features_in_: D; `feature_names_in_` too, if X has column names.
    """

    # A process that unpickles it imports `trainer`, which drops TensorFlow's notes.
    __module__ = "trainer"

    def __init__(  # noqa: PLR0913, D417  (AutoencoderTransformer explains the others)
        self,
        config: str | ConfigDict = "dense",
        *,
        error: str = "mahalanobis",
        contamination: float | str = "auto",
        trim_share: float = 0.2,
        code_size: int | None = None,
        hidden_units: Sequence[int] | None = (64,),
        num_epochs: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = 3e-3,
        standardise: bool = True,
        overrides: Mapping[str, Any] | None = None,
        workdir: str | Path | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        """Takes what `AutoencoderTransformer` explains, with other defaults, and these.

        Args:
          config: a config or its name, of a kind that takes vectors.
          error: what a score is minus of. "mahalanobis": the squared Mahalanobis distance of a
            row's residuals and code from those of the rows of `fit`, divided by their number;
            "mse": the mean squared residual. Residuals are in the units trained on. Mahalanobis
            distances need at most 3,072 features and codes.
          contamination: the share of outliers among the rows of `fit`, above 0 and at most 0.5,
            which sets `offset_`; "auto" is 0.05. The order of the scores does not depend on it.
          trim_share: the share of each batch, of the largest losses, that is not learnt; 0 suits
            rows without outliers.
          code_size: None: half the features.
          num_epochs: None: as many as make 300 steps, at least 4.
          batch_size: None: 64 rows or, of many, a hundredth of them, up to 256.
        """
        self.config = config
        self.error = error
        self.contamination = contamination
        self.trim_share = trim_share
        self.code_size = code_size
        self.hidden_units = hidden_units
        self.num_epochs = num_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.standardise = standardise
        self.overrides = overrides
        self.workdir = workdir
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):  # noqa: N803
        """Trains on the rows of X [N, D], and sets `offset_` by their scores.

        Raises:
          ValueError: X, a parameter or the workdir cannot be used.
          NonFiniteError: the loss or a weight became NaN or infinite.
          KeyboardInterrupt: Ctrl-C or SIGTERM.
        """
        del y
        rows = validate_data(self, X, dtype=FLOATS, ensure_min_samples=2)
        contamination = self._checked_contamination()
        autoencoder = self._autoencoder(*rows.shape)
        self._check_size(rows.shape[1], autoencoder.code_size or 0)
        self.autoencoder_ = autoencoder.fit(rows)
        self.distances_ = None
        codes, residuals = self.autoencoder_.codes_and_residuals(rows)
        if self.error == "mahalanobis":
            self.distances_ = fit_distances(residuals, codes)
        self.offset_ = float(np.quantile(self._scores(residuals, codes), contamination))
        return self

    def score_samples(self, X) -> np.ndarray:  # noqa: N803
        """Returns the scores of rows [N, D], float64 [N]; the lower, the more unusual."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=FLOATS, reset=False)
        codes, residuals = self.autoencoder_.codes_and_residuals(rows)
        return self._scores(residuals, codes)

    def decision_function(self, X) -> np.ndarray:  # noqa: N803
        """Returns `score_samples` minus `offset_`, float64 [N]; below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X) -> np.ndarray:  # noqa: N803
        """Returns -1 for outliers and 1 for other rows, int64 [N]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _checked_contamination(self) -> float:
        if self.error not in _ERRORS:
            raise ValueError(f"error={self.error!r} is not known; allowed: {', '.join(_ERRORS)}")
        share = _AUTO_CONTAMINATION if self.contamination == "auto" else self.contamination
        if not (isinstance(share, float | np.floating) and 0 < share <= 0.5):
            raise ValueError(
                f"contamination={share!r} is not allowed; it must be 'auto' or a share above 0 and "
                "at most 0.5"
            )
        return float(share)

    def _check_size(self, features: int, code_size: int) -> None:
        """Raises ValueError if the covariance is too large to invert in seconds."""
        if self.error == "mahalanobis" and features + code_size > _MAX_VALUES:
            raise ValueError(
                f"error='mahalanobis' is not allowed for {features:,} features and codes of "
                f"{code_size:,}, whose covariance it inverts; up to {_MAX_VALUES:,} values are "
                "allowed, and with error='mse' any number"
            )

    def _autoencoder(self, count: int, features: int) -> AutoencoderTransformer:
        """Returns the transformer to fit to `count` rows."""
        batch_size, code_size, num_epochs = self.batch_size, self.code_size, self.num_epochs
        if batch_size is None:
            batch_size = min(max(_MIN_BATCH_SIZE, count // _ROWS_PER_BATCH_ROW), _MAX_BATCH_SIZE)
        if code_size is None:
            code_size = max(1, features // 2)
        if num_epochs is None:
            num_epochs = max(_MIN_EPOCHS, _MIN_STEPS * batch_size / count)
        return AutoencoderTransformer(
            self.config,
            code_size=code_size,
            hidden_units=self.hidden_units,
            num_epochs=num_epochs,
            batch_size=batch_size,
            learning_rate=self.learning_rate,
            standardise=self.standardise,
            overrides=_SETTINGS | {"trim_share": self.trim_share, **(self.overrides or {})},
            workdir=self.workdir,
            random_state=self.random_state,
            verbose=self.verbose,
        )

    def _scores(self, residuals: np.ndarray, codes: np.ndarray) -> np.ndarray:
        if self.distances_ is None:
            return -mean_squared_errors(residuals)
        return -self.distances_.of(residuals, codes)
