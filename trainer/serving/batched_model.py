"""Applies a trained model to examples in the user's units, a batch at a time."""

from typing import TypeAlias

import numpy as np

from trainer.data.dataset import to_unit
from trainer.distribution.inference import in_batches
from trainer.run import restore
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
        self._encode = in_batches(trained.model.encode, trained.model.image_shape, self.batch_size)
        self._decode = in_batches(trained.model.decode, (trained.model.code_size,), self.batch_size)

    def codes(self, rows: np.ndarray, *, errors: bool = False) -> Columns:
        """Returns the `codes` of examples [B, ...], float32 [B, K], and perhaps their `errors`."""
        inputs = self._preprocess(rows)
        codes = self._encode(inputs)
        return {"codes": codes} | ({"errors": self._errors(inputs, codes)} if errors else {})

    def decoded(self, codes: np.ndarray) -> Columns:
        """Returns the decoded codes [B, K]: `images` in [0, 1] or `vectors` in the user's units."""
        return self._postprocess(self._decode(codes))

    def reconstructions(self, rows: np.ndarray) -> Columns:
        """Returns the reconstructions of examples [B, ...], as `decoded` does."""
        return self.decoded(self._encode(self._preprocess(rows)))

    def _preprocess(self, rows: np.ndarray) -> np.ndarray:
        """Returns the model's inputs: pixels in [0, 1] or standardised vectors, float32."""
        if self._scaling is None or self._is_standardised:
            return to_unit(rows)
        return self._scaling.apply(rows)

    def _postprocess(self, outputs: np.ndarray) -> Columns:
        """Returns the model's outputs as pixels in [0, 1] or vectors in the user's units."""
        if outputs.ndim > 2:
            return {"images": np.clip(outputs, 0, 1)}
        return {"vectors": outputs if self._scaling is None else self._scaling.undo(outputs)}

    def _errors(self, inputs: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Returns the mean squared error of each reconstruction of the model's inputs [B]."""
        squares = np.square(self._decode(codes) - inputs, dtype=np.float64)
        return squares.mean(axis=tuple(range(1, squares.ndim))).astype(np.float32)
