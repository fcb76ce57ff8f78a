"""Keeps what an evaluation found for the errors of other examples: threshold, distances, PCA."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from trainer.errors import UserError
from trainer.run.distances import Distances
from trainer.run.workdir import read_metrics

PCA = "pca.npz"  # in the workdir, of the training examples, with as many components as the code
DISTANCES = "distances.npz"  # in the workdir, of the residuals and codes of the training examples


@dataclasses.dataclass(frozen=True)
class ErrorReference:
    """Compares examples with thresholds, the training examples and PCA."""

    threshold: float | None  # the largest error of a normal example
    distance_threshold: float | None  # the largest distance of a normal example
    distances: Distances | None
    mean: np.ndarray | None  # float32 [D], of PCA, in the units trained on
    components: np.ndarray | None  # float32 [K, D]
    is_stale: bool  # all but PCA is of another checkpoint, and left out

    def pca_errors(self, inputs: np.ndarray) -> np.ndarray | None:
        """Returns PCA's mean squared error of each of the model's inputs, float32 [N]; or None."""
        if self.mean is None or self.components is None:
            return None
        centred = inputs.reshape(len(inputs), -1) - self.mean
        residuals = centred - centred @ self.components.T @ self.components
        return np.square(residuals, dtype=np.float64).mean(axis=1).astype(np.float32)


def read(workdir: Path, step: int) -> ErrorReference:
    """Reads what `trainer.evaluate` kept in a workdir for the checkpoint of a step.

    Raises:
      UserError: a file cannot be read.
    """
    metrics = read_metrics(workdir) or {}
    pca, distances = (_arrays(workdir / name) for name in (PCA, DISTANCES))
    is_stale = "step" in metrics and metrics["step"] != step
    try:
        return ErrorReference(
            None if is_stale else metrics.get("error_threshold"),
            None if is_stale else metrics.get("distance_threshold"),
            Distances(**distances) if distances and not is_stale else None,
            pca.get("mean"),
            pca.get("components"),
            is_stale,
        )
    except TypeError as error:
        raise _unreadable(workdir / DISTANCES) from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a file; none before an evaluation."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> UserError:
    return UserError(f"{path} cannot be read; evaluate the run again")


def write_pca(folder: Path, mean: np.ndarray, components: np.ndarray) -> None:
    """Writes PCA of the training examples: its mean [D] and its components [K, D]."""
    mean, components = mean.astype(np.float32), components.astype(np.float32)
    np.savez(folder / PCA, mean=mean, components=components)


def write_distances(folder: Path, distances: Distances) -> None:
    """Writes the distances from the training examples."""
    np.savez(folder / DISTANCES, **vars(distances))
