"""Stores the thresholds, distances and PCA by which an evaluated run judges other examples."""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.errors import UserError
from trainer.run.distances import Distances, mean_squared_errors
from trainer.run.workdir import read_metrics

PCA = "pca.npz"  # in the workdir, of the training examples, with as many components as the code
DISTANCES = "distances.npz"  # in the workdir, of the residuals and codes of the training examples
STALE = "distances and anomalies are left out: another checkpoint was evaluated; evaluate this one"

_THRESHOLDS = ("error_threshold", "distance_threshold")  # among the metrics
_DISTANCES = tuple(field.name for field in dataclasses.fields(Distances))


@dataclasses.dataclass(frozen=True)
class ErrorReference:
    """Compares examples with thresholds, the training examples and PCA."""

    # Quantiles of the validation examples' errors and distances; an anomaly is above.
    error_threshold: float | None
    distance_threshold: float | None
    distances: Distances | None
    mean: np.ndarray | None  # float32 [D], of PCA, in the units trained on
    components: np.ndarray | None  # float32 [K, D]
    is_stale: bool  # thresholds or distances of another checkpoint are left out

    def pca_errors(self, inputs: np.ndarray) -> np.ndarray | None:
        """Returns PCA's mean squared error of each of the model's inputs, float32 [N]; or None."""
        if self.mean is None or self.components is None:
            return None
        centred = inputs.reshape(len(inputs), -1) - self.mean
        residuals = centred - centred @ self.components.T @ self.components
        return mean_squared_errors(residuals).astype(np.float32)


def read(workdir: Path, step: int) -> ErrorReference:
    """Reads what `trainer.evaluate` kept in a workdir for the checkpoint of a step.

    Raises:
      UserError: a file cannot be read.
    """
    metrics = read_metrics(workdir) or {}
    thresholds = {name: metrics[name] for name in _THRESHOLDS if name in metrics}
    pca = _arrays(workdir / PCA, ("mean", "components"))
    distances = _arrays(workdir / DISTANCES, ("step", *_DISTANCES))
    is_stale = False
    if thresholds and metrics.get("step") != step:
        thresholds, is_stale = {}, True
    if distances and distances.pop("step") != step:
        distances, is_stale = {}, True
    return ErrorReference(
        thresholds.get("error_threshold"),
        thresholds.get("distance_threshold"),
        Distances(**distances) if distances else None,
        pca.get("mean"),
        pca.get("components"),
        is_stale,
    )


def _arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads these arrays of a file; {} before an evaluation."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read; evaluate the run again") from error


def write_pca(folder: Path, mean: np.ndarray, components: np.ndarray) -> None:
    """Writes PCA of the training examples: its mean [D] and its components [K, D]."""
    mean, components = mean.astype(np.float32), components.astype(np.float32)
    np.savez(folder / PCA, mean=mean, components=components)


def write_distances(folder: Path, distances: Distances, step: int) -> None:
    """Writes the distances from the training examples, by the checkpoint of a step."""
    np.savez(folder / DISTANCES, step=step, **vars(distances))
