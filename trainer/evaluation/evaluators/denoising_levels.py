"""Measures how well corrupted images are restored, at the training's noise level and others."""

from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.evaluation.evaluators.reconstruction import (
    in_unit_interval,
    mean_bce_nats,
)
from trainer.monitoring import figures
from trainer.run.distances import mean_squared_errors

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

ORDER = 50
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_PCA_IMAGES = 10_000  # training images that choose the number of PCA's components
_LINES = {"noisy": "corrupted", "noisy_pca": "corrupted, by PCA", "denoised": "restored"}


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the model is trained on corrupted images."""
    return hasattr(evaluated.model, "corruption_level")


def measure(evaluated: EvaluatedModel) -> Result:
    """Measures the errors of restored test images against the clean ones.

    `denoised_mse` and, for data in [0, 1], `denoised_bce` (nats) are measured at the level of the
    training. For comparison, `noisy_mse` is the error of the corrupted images, and `noisy_pca_mse`
    of their projections on the first `noisy_pca_components` of PCA, the number that is best on
    corrupted training images. The lists `..._at_levels` and the plot have the same at each of
    `levels`.
    """
    model: Any = evaluated.model
    train = Projections(evaluated.pca, evaluated.train[:_PCA_IMAGES])
    test = Projections(evaluated.pca, evaluated.test)
    levels = {model.corruption_level, *LEVELS}
    measured = {level: _measure_level(evaluated, level, train, test) for level in levels}
    at_training = measured[model.corruption_level]
    metrics = at_training | {
        "levels": list(LEVELS),
        **{
            f"{name}_at_levels": [measured[level][name] for level in LEVELS] for name in at_training
        },
    }
    lines = {label: metrics[f"{name}_mse_at_levels"] for name, label in _LINES.items()}
    title = "error against the clean test examples"
    axes = f"level of the corruption ({model.corruption.replace('_', ' ')})", "mean squared error"
    return Result(metrics, {"denoising_levels": figures.lines(LEVELS, lines, title, *axes)})


class Projections:
    """Measures projections of noisy images on PCA's components against the images [N, ...]."""

    def __init__(self, pca: "PCA", images: np.ndarray):
        rows = images.reshape(len(images), -1)
        self.images = images
        self._pca = pca
        self._clean = pca.transform(rows)
        self._removed = np.square(self._clean).sum(axis=0, dtype=np.float64)
        self._mean_error = np.square(rows - pca.mean_).sum(dtype=np.float64)

    def errors(self, noisy: np.ndarray) -> np.ndarray:
        """Returns the mse of noisy images projected on 0, 1, ..., K components, float64 [K + 1].

        The images and `noisy`, [N, ...], have coordinates c_j and z_j on component j. Zero
        components have the error of the mean image; component j removes c_j^2 and adds
        (z_j - c_j)^2.
        """
        coordinates = self._pca.transform(noisy.reshape(len(noisy), -1))
        added = np.square(coordinates - self._clean).sum(axis=0, dtype=np.float64)
        return (self._mean_error + np.cumsum([0, *(added - self._removed)])) / self.images.size


def _measure_level(
    evaluated: EvaluatedModel, level: float, train: Projections, test: Projections
) -> dict[str, Any]:
    model: Any = evaluated.model  # its `corrupted` takes a level

    def corrupt(images):
        return evaluated.map(
            lambda batch, noise: model.corrupted(batch, noise, level), images, with_noise=True
        )

    images = test.images
    noisy = corrupt(images)
    denoised = evaluated.map(model, noisy)
    components = int(train.errors(corrupt(train.images)).argmin())
    metrics: dict[str, Any] = {"denoised_mse": float(mean_squared_errors(denoised - images).mean())}
    if in_unit_interval(images):
        metrics["denoised_bce"] = mean_bce_nats(images, denoised)
    return metrics | {
        "noisy_mse": float(mean_squared_errors(noisy - images).mean()),
        "noisy_pca_mse": float(test.errors(noisy)[components]),
        "noisy_pca_components": components,
    }
