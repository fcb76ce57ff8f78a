"""Keeps what an evaluation found for the errors of other examples: a threshold, and PCA."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from trainer.errors import UserError
from trainer.run.workdir import read_metrics

PCA = "pca.npz"  # in the workdir, of the training examples, with as many components as the code


@dataclasses.dataclass(frozen=True)
class ErrorReference:
    """Compares errors with a threshold, and with PCA's errors on the same examples."""

    threshold: float | None  # the largest error of a normal example
    step: int | None  # of the checkpoint whose validation errors gave the threshold
    mean: np.ndarray | None  # float32 [D], of PCA, in the units trained on
    components: np.ndarray | None  # float32 [K, D]

    def pca_errors(self, inputs: np.ndarray) -> np.ndarray | None:
        """Returns PCA's mean squared error of each of the model's inputs, float32 [N]; or None."""
        if self.mean is None or self.components is None:
            return None
        centred = inputs.reshape(len(inputs), -1) - self.mean
        residuals = centred - centred @ self.components.T @ self.components
        return np.square(residuals, dtype=np.float64).mean(axis=1).astype(np.float32)


def read(workdir: Path) -> ErrorReference:
    """Reads what `trainer.evaluate` kept in a workdir; before an evaluation, nothing.

    Raises:
      UserError: a file cannot be read.
    """
    metrics = read_metrics(workdir) or {}
    arrays: dict[str, np.ndarray] = {}
    if (workdir / PCA).exists():
        try:
            with np.load(workdir / PCA, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("mean", "components")}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{workdir / PCA} cannot be read; evaluate the run again") from error
    return ErrorReference(
        metrics.get("error_threshold"),
        metrics.get("step"),
        arrays.get("mean"),
        arrays.get("components"),
    )


def write_pca(folder: Path, mean: np.ndarray, components: np.ndarray) -> None:
    """Writes PCA of the training examples: its mean [D] and its components [K, D]."""
    mean, components = mean.astype(np.float32), components.astype(np.float32)
    np.savez(folder / PCA, mean=mean, components=components)
