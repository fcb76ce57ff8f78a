"""Computes what several evaluators need of a trained model and its data."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.dataset import named
from trainer.monitoring.figures import shortened
from trainer.run.distances import Distances, fit_distances, mean_squared_errors
from trainer.storage import user_cache

if TYPE_CHECKING:  # trainer.compare reads only columns, and should not wait seconds for imports
    import tensorflow as tf
    from sklearn.decomposition import PCA

    from trainer.models.base import Autoencoder
    from trainer.positions import Noise

_MAX_EXACT_PCA = 4096  # values of an image; such a covariance is decomposed in seconds
_MAX_DISTANCE_VALUES = 1024  # of an image and a code; such a covariance is inverted in seconds
_MAX_DISTANCE_ROWS = 20_000  # of the training images, to estimate the covariance
_MAX_NAME = 24  # characters of what a vector is called


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """Holds a trained model, its training and test images, and arrays computed on first use.

    Images are float32 [N, H, W, C] in [0, 1], or vectors [N, D] of any values.
    """

    model: "Autoencoder"
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None = None  # [N]
    test_labels: np.ndarray | None = None
    seed: int = 0
    workdir: Path = Path()
    class_names: tuple[str, ...] = ()  # by label
    test_files: np.ndarray | None = None  # str [N]
    test_names: np.ndarray | None = None  # str [N], of single examples
    data_key: tuple[object, ...] = ()  # of the data, the code and the packages; (): keep nothing
    feature_names: tuple[str, ...] = ()  # of a table
    train_anomalies: np.ndarray | None = None  # bool [N], if labels say so
    test_anomalies: np.ndarray | None = None

    def titles(self, shown: np.ndarray) -> list[str]:
        """Returns the classes of some test examples, else their names."""
        classes = self.test_class_names
        return self.names(shown) if classes is None else list(map(str, classes[shown]))

    def names(self, shown: np.ndarray) -> list[str]:
        """Returns the names of some test examples, else their rows in the split, counted from 0."""
        names = self.test_names
        return [f"row {row}" for row in shown] if names is None else names[shown].tolist()

    def vector_labels(self, shown: np.ndarray, notes: Sequence[str]) -> list[str]:
        """Returns the names and classes of some test vectors, each with its note."""
        names = [shortened(name, _MAX_NAME) for name in self.names(shown)]
        classes = self.class_labels(shown)
        if classes:
            names = [f"{name} ({label})" for name, label in zip(names, classes, strict=True)]
        return [f"{name}, {note}" for name, note in zip(names, notes, strict=True)]

    def class_labels(self, shown: np.ndarray) -> list[str]:
        """Returns the classes of some test examples, shortened; [] if there are no classes."""
        classes = self.test_class_names
        return [] if classes is None else [shortened(str(name)) for name in classes[shown]]

    def feature_labels(self, shown: np.ndarray) -> list[list[str]]:
        """Returns the names of the features of some test vectors, with their values [n][D].

        A value is in standard deviations from the mean, both of the training vectors.
        """
        names = self.feature_names or range(self.test.shape[1])
        mean = self.train.mean(axis=0, dtype=np.float64)
        std = self.train.std(axis=0, dtype=np.float64)
        varies = np.ptp(self.train, axis=0) > 0
        deviations = (self.test[shown] - mean) / np.where(varies, std, 1)
        return [
            [
                f"{name} ({value:+.1f})" if is_varied else f"{name} (constant in training)"
                for name, value, is_varied in zip(names, row, varies, strict=True)
            ]
            for row in deviations
        ]

    @property
    def test_class_names(self) -> np.ndarray | None:
        """Returns the class of each test image by its name [N], or by its label."""
        return named(self.test_labels, self.class_names)

    @property
    def train_rows(self) -> np.ndarray:
        """Returns the training images as rows [N, D]."""
        return self.train.reshape(len(self.train), -1)

    @property
    def test_rows(self) -> np.ndarray:
        """Returns the test images as rows [N, D]."""
        return self.test.reshape(len(self.test), -1)

    @functools.cached_property
    def train_codes(self) -> np.ndarray:
        """Returns the codes of the training images, float32 [N, K]."""
        return self.map(self.model.encode, self.train)

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """Returns the codes of the test images, float32 [N, K]."""
        return self.map(self.model.encode, self.test)

    @functools.cached_property
    def reconstructions(self) -> np.ndarray:
        """Returns the reconstructions of the test images, float32 [N, H, W, C]."""
        return self.map(self.model.decode, self.codes)

    @functools.cached_property
    def test_errors(self) -> np.ndarray:
        """Returns the mean squared errors of the reconstructions, float64 [N]."""
        return mean_squared_errors(self.reconstructions - self.test)

    @property
    def components(self) -> int:
        """Returns the number of PCA's components: the size of the code, where images allow it."""
        return min(self.model.code_size, *self.train_rows.shape)

    @functools.cached_property
    def pca(self) -> "PCA":
        """Returns PCA of the training images, with `components`; fitted once for all runs."""
        from sklearn.decomposition import PCA

        rows, count = self.train_rows, self.components
        exact = rows.shape[1] <= _MAX_EXACT_PCA

        def fit() -> dict[str, np.ndarray]:
            solver = "covariance_eigh" if exact else "randomized"
            # float64: where the mean is large against the std, float32 leaves too few digits.
            pca = PCA(count, svd_solver=solver, random_state=0).fit(rows.astype(np.float64))
            return {"mean": pca.mean_, "components": np.ascontiguousarray(pca.components_)}

        # Exact components do not depend on how many are asked for.
        what = ("pca",) if exact else ("pca", count)
        fitted = self._kept(what, fit, lambda arrays: len(arrays["components"]) >= count)
        pca = PCA(count)
        pca.mean_, pca.components_ = fitted["mean"], fitted["components"][:count]
        pca.n_components_, pca.n_features_in_ = count, rows.shape[1]
        return pca

    def kept_number(self, what: str, compute: Callable[[], float]) -> float:
        """Returns a number that depends on the data and `components` alone; computed once."""
        kept = self._kept((what, self.components), lambda: {"number": np.array(compute())})
        return float(kept["number"])

    def _kept(
        self,
        what: tuple[object, ...],
        compute: Callable[[], user_cache.Arrays],
        is_enough: Callable[[user_cache.Arrays], bool] = lambda _: True,
    ) -> user_cache.Arrays:
        """Computes arrays that depend on the data alone, or returns what another run has kept."""
        if not self.data_key:
            return compute()
        counts = len(self.train), len(self.test)  # they depend on the free memory
        return user_cache.load_or_compute((*what, *counts, *self.data_key), compute, is_enough)

    @functools.cached_property
    def pca_errors(self) -> np.ndarray:
        """Returns the mean squared error of each test image by PCA, float64 [N]."""
        rows = self.test_rows
        projected = self.pca.inverse_transform(self.pca.transform(rows))
        return mean_squared_errors(projected - rows)

    @functools.cached_property
    def distances(self) -> Distances | None:
        """Fits `Distances` to the training images, or returns None.

        None for images whose anomalies are not known, since distances suit vectors, and where an
        image and its code have more than 1,024 values.
        """
        is_wanted = self.test.ndim == 2 or self.test_anomalies is not None
        size = self.test[0].size + self.model.code_size
        if not is_wanted or size > _MAX_DISTANCE_VALUES:
            return None
        step = -(-len(self.train) // _MAX_DISTANCE_ROWS)
        codes = self.train_codes[::step]
        residuals = self.train[::step] - self.map(self.model.decode, codes)
        return fit_distances(residuals, codes)

    @functools.cached_property
    def test_distances(self) -> np.ndarray | None:
        """Returns the distances of the test images, float64 [N], or None without `distances`."""
        if self.distances is None:
            return None
        return self.distances.of(self.test - self.reconstructions, self.codes)

    @property
    def has_classes(self) -> bool:
        """Returns whether both splits have labels, and the training images at least two classes."""
        train, test = self.train_labels, self.test_labels
        return train is not None and test is not None and bool(np.ptp(train) > 0)

    @property
    def is_undercomplete(self) -> bool:
        """Returns whether the code has fewer values than an image."""
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
