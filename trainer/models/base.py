"""The contract of every kind: encode, decode, and loss terms per example."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import require
from trainer.monitoring import figures
from trainer.positions import Noise

if TYPE_CHECKING:
    from sklearn.decomposition import PCA  # a second of start-up that training does not need

_FILTERS_SHOWN = 100
_PROBABILITY_MARGIN = 1e-7  # keeps the logarithm of a reconstruction finite


@dataclasses.dataclass(frozen=True)
class StepContext:
    """When in a run a loss is asked for."""

    noise: Noise  # a row for each example, that belongs to its position
    progress: tf.Tensor  # float32 [], the share of the training's steps that are done
    training: bool  # not an evaluation
    batch_means: tf.Tensor | None = None  # float32 [S], of what the kind's `statistics` are
    labels: tf.Tensor | None = None  # int64 [B], where the training is given them


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a trained model is measured on; images float32 [N, H, W, C] in [0, 1], or vectors."""

    train: np.ndarray
    test: np.ndarray
    test_codes: np.ndarray  # float32 [N, K]
    pca: "PCA"  # of K components, fitted on the training images
    # A function of rows [B, ...], or of them and their `Noise`, over all [N, ...], batch by batch.
    map_batches: Callable[[Callable[..., tf.Tensor], np.ndarray], np.ndarray]
    map_noisy_batches: Callable[[Callable[..., tf.Tensor], np.ndarray], np.ndarray]
    train_labels: np.ndarray | None = None  # [N]
    test_labels: np.ndarray | None = None
    train_codes: np.ndarray | None = None  # float32 [N, K], where there are labels to tell apart


class Autoencoder(keras.Model):
    """Reconstructs images [B, H, W, C], pixels in [0, 1], from a code [B, K].

    Vectors [B, D] of any numbers are images too, to all that asks for nothing of their pixels.
    `encoder` maps images to the code, `decoder` maps the code to logits: the reconstruction before
    the output activation; both end in float32. The view is one replica's; nothing here knows how
    many there are.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        encoder: keras.Sequential,
        decoder: keras.Sequential,
        *,
        loss: str,
        output_activation: str,
    ):
        """Takes networks already built, and the values of the two keys."""
        super().__init__()
        self.image_shape = image_shape
        self.encoder = encoder
        self.decoder = decoder
        self._loss = loss
        self.output_activation = output_activation
        self.built = True

    @property
    def code_size(self) -> int:
        """K, the numbers in a code."""
        return self.decoder.input_shape[-1]

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Images [B, H, W, C] to codes, float32 [B, K]."""
        return self.encoder(images)

    def decode(self, codes: tf.Tensor) -> tf.Tensor:
        """Codes [B, K] to reconstructions, float32 [B, H, W, C]."""
        return self._output(self.decoder(codes))

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Images to reconstructions, both [B, H, W, C]."""
        return self.decode(self.encode(images))

    def plain_keras_code(self, encoded: keras.KerasTensor) -> keras.KerasTensor:
        """The code of what `encoder` gives, as `encode` has it, by Keras's own operations.

        On symbolic tensors, for a network that loads without this project.
        """
        return encoded

    def loss_terms(self, images: tf.Tensor, context: StepContext) -> dict[str, tf.Tensor]:
        """What training minimises the sum of: each term float32 [B].

        Here the reconstruction error alone, under the name of the loss.
        """
        del context
        return {self._loss: self.error(self.decoder(self.encode(images)), images)}

    def error(self, logits: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """The error of each reconstruction, float32 [B], a mean over the pixels.

        "mse" is the squared error; "bce" the binary cross-entropy in nats, from the logits.
        """
        if self._loss == "bce":
            error = tf.nn.sigmoid_cross_entropy_with_logits(labels=images, logits=logits)
        else:
            error = tf.square(self._output(logits) - images)
        return tf.reduce_mean(error, axis=list(range(1, len(images.shape))))

    def check_data(self, lowest: float, highest: float) -> None:
        """Raises UserError unless the kind can learn from data between these two numbers."""
        others = "model.loss='mse' and model.output_activation='linear'"
        if self._loss == "bce":
            require_unit_interval("model.loss='bce'", lowest, highest, others)
        if self.output_activation == "sigmoid":
            require_unit_interval("model.output_activation='sigmoid'", lowest, highest, others)

    def statistics(self, images: tf.Tensor) -> tf.Tensor | None:
        """What a loss term needs the mean of over the global batch, float32 [B, S]; or nothing.

        The means come back as `StepContext.batch_means`, for `means_of_each`.
        """
        del images
        return None

    def corrupted(self, images: tf.Tensor, noise: Noise) -> tf.Tensor | None:
        """What the model restores the images from, [B, H, W, C]; None: from themselves."""
        del images, noise
        return None

    def prior_codes(self, noise: Noise) -> tf.Tensor | None:
        """Codes drawn from the kind's prior, float32 [B, K]; None: it has none."""
        del noise
        return None

    def has_converged(self) -> bool:
        """Whether nothing is left to learn, so that a training may end here, where it validates.

        A function of the weights alone, or a run that is started again would end elsewhere.
        """
        return False

    def rows(self, images: np.ndarray, noise: Noise) -> dict[str, np.ndarray]:
        """What a picture of the model shows of images [B, H, W, C], by the names of its rows."""
        corrupted = self.corrupted(images, noise)
        codes = self.encode(images if corrupted is None else corrupted)
        rows = {"original": images, "corrupted": corrupted, "code": codes}
        rows["reconstruction"] = self.decode(codes)
        return {name: np.asarray(row) for name, row in rows.items() if row is not None}

    def validation_pictures(self, images: np.ndarray, noise: Noise) -> dict[str, np.ndarray]:
        """What is watched while the kind learns, uint8 [H, W, 3] by tag; to be had in no time.

        Here `filters`, where dense units see the images. Takes some validation images [N, H, W, C]
        in [0, 1] and the noise of as many.
        """
        del images, noise
        filters = self.filters()
        return {} if filters is None else {"filters": filters}

    def filters(self) -> np.ndarray | None:
        """What the first units that see an image look at, uint8 [H, W, 3]; None: they convolve.

        Each is stretched, black its least weight and white its largest.
        """
        first = next(layer for layer in self.encoder.layers if layer.weights)
        if not isinstance(first, keras.layers.Dense):
            return None
        kernels = first.kernel.numpy().T[:_FILTERS_SHOWN].reshape(-1, *self.image_shape)
        if len(self.image_shape) > 1:
            kernels = figures.scale_each(kernels)
        return figures.grid(kernels, columns=10)

    def own_metrics(self, measured: Measured) -> dict[str, Any]:
        """What only this kind is asked, for `metrics.json`; nothing unless a kind says so."""
        del measured
        return {}

    def own_pictures(self, measured: Measured, metrics: dict[str, Any]) -> dict[str, np.ndarray]:
        """What only this kind has to show, uint8 [H, W, 3] by the name of the file."""
        del measured, metrics
        return {}

    def _output(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(logits) if self.output_activation == "sigmoid" else logits


def require_undercomplete(code_size: int, image_shape: tuple[int, ...]) -> None:
    """Raises UserError if the code is larger than the image it should compress."""
    pixels = math.prod(image_shape)
    shape = "x".join(map(str, image_shape))
    what = f"an image of {shape}" if len(image_shape) > 1 else f"a vector of {shape} feature(s)"
    require(
        code_size <= pixels,
        f"model.code_size={code_size} is not allowed here; {what} allows 1 to {pixels}",
    )


def require_unit_interval(setting: str, lowest: float, highest: float, instead: str) -> None:
    """Raises UserError, with what to set instead, if the data leave [0, 1]."""
    require(
        lowest >= 0 and highest <= 1,
        f"{setting} needs numbers in [0, 1], but the data reach from {lowest:g} to {highest:g}; "
        f"these take {instead}",
    )


def in_unit_interval(rows: np.ndarray) -> bool:
    """Whether all numbers lie in [0, 1], as pixels do."""
    return bool(rows.min() >= 0 and rows.max() <= 1)


def mean_bce_nats(images: np.ndarray, rebuilt: np.ndarray) -> float:
    """The mean binary cross-entropy of a pixel of reconstructions cut to [0, 1], both [N, ...]."""
    inside = np.clip(rebuilt.astype(np.float64), _PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
    return float(-np.mean(images * np.log(inside) + (1 - images) * np.log1p(-inside)))


def means_of_each(batch_means: tf.Tensor, statistics: tf.Tensor) -> tf.Tensor:
    """The means [S] once for each example, [B, S], with its own part of their gradient.

    For f(means), a loss term that has f of the row of each example has the value f(means); and the
    mean of those rows' gradients over the batch is the gradient of f(means), wherever the examples
    are: f'(means) times the mean of the statistics' gradients.
    """
    return batch_means + statistics - tf.stop_gradient(statistics)
