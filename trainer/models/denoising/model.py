"""The denoising kind: its networks, its noise and its loss."""

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from trainer.models import base, networks
from trainer.models.denoising import Settings
from trainer.monitoring import figures
from trainer.positions import Noise

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # at which a model is measured
_PCA_IMAGES = 10_000  # training images, that choose PCA's number of components

_NETWORKS = {"dense": networks.dense_pair, "conv": networks.conv_pair}


def _masking(images: tf.Tensor, noise: Noise, level: float) -> tf.Tensor:
    drawn = noise.uniform("corruption", images.shape[1:])
    return tf.where(drawn < level, 0.0, images)


def _salt_and_pepper(images: tf.Tensor, noise: Noise, level: float) -> tf.Tensor:
    drawn = noise.uniform("corruption", images.shape[1:])
    return tf.where(drawn < level / 2, 0.0, tf.where(drawn < level, 1.0, images))


def _gaussian(images: tf.Tensor, noise: Noise, level: float) -> tf.Tensor:
    noisy = images + level * noise.normal("corruption", images.shape[1:])
    are_vectors = len(images.shape) == 2
    return noisy if are_vectors else tf.clip_by_value(noisy, 0.0, 1.0)


_CORRUPTIONS = {
    "masking": _masking,
    "salt_and_pepper": _salt_and_pepper,
    "gaussian": _gaussian,
}


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.denoising` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        super().__init__(
            image_shape,
            *_NETWORKS[settings.network](
                image_shape, settings.layer_sizes, settings.activation, settings.code_activation
            ),
            loss=settings.loss,
            output_activation=settings.output_activation,
        )
        self._corruption = settings.corruption
        self._corruption_level = settings.corruption_level

    def corrupted(self, images: tf.Tensor, noise: Noise, level: float | None = None) -> tf.Tensor:
        """Images [B, H, W, C] corrupted, at the level of the training unless another is given."""
        level = self._corruption_level if level is None else level
        return _CORRUPTIONS[self._corruption](images, noise, level)

    def check_data(self, lowest: float, highest: float) -> None:
        """Raises UserError if salt and pepper, 0 and 1, are not the ends of the data's range."""
        super().check_data(lowest, highest)
        if self._corruption == "salt_and_pepper":
            others = "model.corruption='gaussian' or 'masking'"
            setting = "model.corruption='salt_and_pepper'"
            base.require_unit_interval(setting, lowest, highest, others)

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """The error of what is restored from the corrupted images, against the clean ones."""
        codes = self.encode(self.corrupted(images, context.noise))
        return {self._loss: self.error(self.decoder(codes), images)}

    def own_metrics(self, measured: base.Measured) -> dict[str, Any]:
        """How near corrupted test images are brought to the clean ones.

        `denoised_mse` and, of data in [0, 1], `denoised_bce` (nats), at the level of the training.
        Beside them `noisy_mse`, of the corrupted images themselves, and `noisy_pca_mse`, of their
        projections on the first `noisy_pca_components` of PCA's components, as many of those there
        are as are best on corrupted training images. The same at each of `levels` in lists.
        """
        metrics = self._measure(measured, self._corruption_level)
        at_levels = [self._measure(measured, level) for level in LEVELS]
        lists = {f"{name}_at_levels": [row[name] for row in at_levels] for name in metrics}
        return metrics | {"levels": list(LEVELS)} | lists

    def own_pictures(
        self, measured: base.Measured, metrics: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """The errors over the levels."""
        del measured
        labels = {"noisy": "corrupted", "noisy_pca": "corrupted, by PCA", "denoised": "restored"}
        errors = {label: metrics[f"{name}_mse_at_levels"] for name, label in labels.items()}
        x = f"level of the corruption ({self._corruption.replace('_', ' ')})"
        return {"denoising_levels": figures.lines(metrics["levels"], errors, x, "mse")}

    def _measure(self, measured: base.Measured, level: float) -> dict[str, Any]:
        def corrupt(images):
            return measured.map_noisy_batches(
                lambda batch, noise: self.corrupted(batch, noise, level), images
            )

        noisy = corrupt(measured.test)
        denoised = measured.map_batches(self, noisy)
        some = measured.train[:_PCA_IMAGES]
        components = int(projection_errors(measured.pca, some, corrupt(some)).argmin())
        metrics: dict[str, Any] = {"denoised_mse": _mse(measured.test, denoised)}
        if base.in_unit_interval(measured.test):
            metrics["denoised_bce"] = base.mean_bce_nats(measured.test, denoised)
        return metrics | {
            "noisy_mse": _mse(measured.test, noisy),
            "noisy_pca_mse": float(
                projection_errors(measured.pca, measured.test, noisy)[components]
            ),
            "noisy_pca_components": components,
        }


def projection_errors(pca: "PCA", images: np.ndarray, noisy: np.ndarray) -> np.ndarray:
    """The mse of noisy images' projections on 0, 1, ..., K components, float64 [K + 1].

    Both [N, ...]. Beginning with the mean image, component j takes away what it holds of a clean
    image, (c_j)^2, and brings what noise put there, (z_j - c_j)^2.
    """
    flat, flat_noisy = (rows.reshape(len(rows), -1) for rows in (images, noisy))
    clean = pca.transform(flat)
    brought = np.square(pca.transform(flat_noisy) - clean).sum(axis=0, dtype=np.float64)
    taken = np.square(clean).sum(axis=0, dtype=np.float64)
    of_mean = np.square(flat - pca.mean_).sum(dtype=np.float64)
    return (of_mean + np.cumsum([0, *(brought - taken)])) / flat.size


def _mse(images: np.ndarray, others: np.ndarray) -> float:
    return float(np.square(others - images).mean(dtype=np.float64))
