"""A trained model with its data, and what several evaluators need of them."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # seconds of imports that those who only ask for columns do not need
    import tensorflow as tf
    from sklearn.decomposition import PCA

    from trainer.models.base import Autoencoder
    from trainer.positions import Noise

_MAX_EXACT_PCA = 4096  # numbers in an image, whose covariance is decomposed in seconds


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """A trained model, its training and test images, and arrays computed once, when first used.

    Images are float32 [N, H, W, C] in [0, 1], or vectors [N, D] of any numbers.
    """

    model: "Autoencoder"
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None = None  # [N]
    test_labels: np.ndarray | None = None
    seed: int = 0
    workdir: Path = Path()

    @property
    def train_rows(self) -> np.ndarray:
        """The training images as rows [N, D]."""
        return self.train.reshape(len(self.train), -1)

    @property
    def test_rows(self) -> np.ndarray:
        """The test images as rows [N, D]."""
        return self.test.reshape(len(self.test), -1)

    @functools.cached_property
    def train_codes(self) -> np.ndarray:
        """The codes of the training images, float32 [N, K]."""
        return self.map(self.model.encode, self.train)

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """The codes of the test images, float32 [N, K]."""
        return self.map(self.model.encode, self.test)

    @functools.cached_property
    def reconstructions(self) -> np.ndarray:
        """The reconstructions of the test images, float32 [N, H, W, C]."""
        return self.map(self.model.decode, self.codes)

    @functools.cached_property
    def pca(self) -> "PCA":
        """PCA of the training images with as many components as the code has numbers."""
        from sklearn.decomposition import PCA

        exact = self.train_rows.shape[1] <= _MAX_EXACT_PCA
        solver = "covariance_eigh" if exact else "randomized"
        components = min(self.model.code_size, *self.train_rows.shape)
        return PCA(components, svd_solver=solver, random_state=0).fit(self.train_rows)

    @property
    def has_classes(self) -> bool:
        """Whether both splits have labels, and the training images more than one."""
        train, test = self.train_labels, self.test_labels
        return train is not None and test is not None and bool(np.ptp(train) > 0)

    @property
    def is_undercomplete(self) -> bool:
        """Whether the code has fewer numbers than an image."""
        return self.model.code_size < self.test[0].size

    def noise(self, count: int) -> "Noise":
        """Returns the noise of the first test images."""
        from trainer.positions import Noise

        return Noise(self.seed, 0, count, stream="evaluation")

    def map(
        self,
        function: "Callable[..., tf.Tensor]",
        rows: np.ndarray,
        *,
        with_noise: bool = False,
    ) -> np.ndarray:
        """Applies a function of rows [B, ...], and perhaps their `Noise`, to all rows [N, ...]."""
        from trainer.distribution.inference import map_batches

        return map_batches(function, rows, noise_seed=self.seed if with_noise else None)
