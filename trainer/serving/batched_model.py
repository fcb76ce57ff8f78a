"""Applies a trained model to examples in the user's units, a batch at a time."""

import functools
from typing import TypeAlias

import numpy as np

from trainer.data import Scaling
from trainer.data.dataset import to_unit
from trainer.distribution.inference import in_batches
from trainer.run import error_reference, restore
from trainer.run.distances import mean_squared_errors
from trainer.serving import readers
from trainer.serving.options import DEFAULTS

Columns: TypeAlias = dict[str, np.ndarray]  # [B, ...] by name


class BatchedModel:
    """Applies a trained model to examples in the user's units, in batches of one size."""

    def __init__(self, trained: restore.TrainedModel, rows: readers.Input, batch_size: int):
        # A batch is as large as the input, at least the default size and at most `batch_size`: all
        # small inputs share one size, so their rows get the same bits.
        count = batch_size if rows.count is None else rows.count
        self.batch_size = min(batch_size, max(count, DEFAULTS.batch_size))
        self._scaling = trained.scaling
        self.skips_unreadable = getattr(trained.config.data, "skip_unreadable", False)
        self.feature_names = trained.features.names if trained.features else ()
        self._is_standardised = rows.is_standardised
        self._workdir, self._step = trained.run.workdir, trained.step
        self._encode = in_batches(trained.model.encode, trained.model.image_shape, self.batch_size)
        self._decode = in_batches(trained.model.decode, (trained.model.code_size,), self.batch_size)

    @functools.cached_property
    def _reference(self) -> error_reference.ErrorReference:
        return error_reference.read(self._workdir, self._step)

    @property
    def has_stale_evaluation(self) -> bool:
        """Returns whether the evaluation is of another checkpoint."""
        return self._reference.is_stale

    def codes(self, rows: np.ndarray) -> Columns:
        """Returns the `codes` of examples [B, ...], float32 [B, K]."""
        return {"codes": self._encode(self._preprocess(rows))}

    def errors(self, rows: np.ndarray) -> Columns:
        """Returns only the `errors` that `codes_and_errors` returns."""
        *_, residuals = self._inputs_codes_and_residuals(rows)
        return {"errors": mean_squared_errors(residuals).astype(np.float32)}

    def codes_and_errors(self, rows: np.ndarray, *, squared_errors: bool = False) -> Columns:
        """Returns the `codes` of examples [B, ...], and the `errors` of their reconstructions.

        `errors` are the mean squared errors of the model's inputs, float32 [B]. After an evaluation
        there are also PCA's, `pca_errors`, and for vectors `run.distances`, float32 [B]; with
        thresholds, bool `is_anomaly` and `is_anomaly_by_distance` [B]; if asked for,
        `squared_errors` of each value, float32 [B, ...].
        """
        inputs, codes, residuals = self._inputs_codes_and_residuals(rows)
        errors = mean_squared_errors(residuals).astype(np.float32)
        columns = {"codes": codes, "errors": errors}
        pca_errors = self._reference.pca_errors(inputs)
        if pca_errors is not None:
            columns["pca_errors"] = pca_errors
        if self._reference.error_threshold is not None:
            columns["is_anomaly"] = errors > self._reference.error_threshold
        if self._reference.distances is not None:
            distances = self._reference.distances.of(residuals, codes)
            columns["distances"] = distances.astype(np.float32)
            if self._reference.distance_threshold is not None:
                is_distant = distances > self._reference.distance_threshold
                columns["is_anomaly_by_distance"] = is_distant
        if squared_errors:
            squares = np.square(residuals, dtype=np.float64)
            columns["squared_errors"] = squares.astype(np.float32)
        return columns

    def decoded(self, codes: np.ndarray) -> Columns:
        """Returns the decoded codes [B, K]: `images` in [0, 1] or `vectors` in the user's units."""
        return postprocess(self._decode(codes), self._scaling)

    def reconstructions(self, rows: np.ndarray) -> Columns:
        """Returns the reconstructions of examples [B, ...], as `decoded` does."""
        return self.decoded(self._encode(self._preprocess(rows)))

    def _inputs_codes_and_residuals(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        inputs = self._preprocess(rows)
        codes = self._encode(inputs)
        return inputs, codes, inputs - self._decode(codes)

    def _preprocess(self, rows: np.ndarray) -> np.ndarray:
        """Returns the model's inputs: pixels in [0, 1] or standardised vectors, float32."""
        if self._scaling is None or self._is_standardised:
            return to_unit(rows)
        return self._scaling.apply(rows)


def postprocess(outputs: np.ndarray, scaling: Scaling | None) -> Columns:
    """Returns a model's outputs as pixels in [0, 1] or vectors in the user's units."""
    if outputs.ndim > 2:
        return {"images": np.clip(outputs, 0, 1)}
    return {"vectors": outputs if scaling is None else scaling.undo(outputs)}
