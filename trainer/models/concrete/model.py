"""The concrete kind: its selectors, its decoder and its loss."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainer.models import base, networks
from trainer.models.concrete import Settings
from trainer.monitoring import figures
from trainer.positions import Noise

_SETTLED_ABOVE = 0.998  # the mean over the selectors of the largest probability, as the authors'
_SMALLEST_UNIFORM = 2.0**-25  # in the place of 0, whose logarithm is infinite
_TREES = 50  # as the paper's


class Model(base.Autoencoder):
    """Implements the kind that `trainer.models.concrete` describes."""

    def __init__(self, image_shape: tuple[int, ...], settings: Settings):
        size = settings.code_size
        base.require_undercomplete(size, image_shape)
        encoder = keras.Sequential(
            [
                keras.Input(image_shape),
                layers.Flatten(name="flatten", dtype="float32"),
                Selectors(size, settings.selector_rate, name="code", dtype="float32"),
            ],
            name="encoder",
        )
        super().__init__(
            image_shape,
            encoder,
            networks.dense_decoder(image_shape, settings.hidden_units, size, settings.activation),
            loss=settings.loss,
            output_activation=settings.output_activation,
        )
        self._first_temperature = settings.first_temperature
        self._last_temperature = settings.last_temperature
        self._settled_share = settings.settled_share
        self._stop_when_settled = settings.stop_when_settled
        self._images_per_draw = settings.images_per_draw

    @property
    def logits(self) -> tf.Tensor:
        """Those of the selectors, float32 [k, D]."""
        return self.encoder.get_layer("code").logits

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """The error of what is decoded from the mixtures or, once settled, from the pixels."""

        def selected():
            # The gradient of the images would be a scatter, which XLA on a GPU does one by one.
            return tf.stop_gradient(self.encode(images))

        def mixed():
            return self.mixtures(images, context.noise, self.temperature(context.progress))

        if not context.training:
            codes = selected()
        elif self._settled_share == 0:
            codes = mixed()
        else:
            codes = tf.cond(context.progress < 1 - self._settled_share, mixed, selected)
        return {self._loss: self.error(self.decoder(codes), images)}

    def temperature(self, progress: tf.Tensor) -> tf.Tensor:
        """T = first * (last / first)**p, p the share done of the steps before the settled ones."""
        done = tf.minimum(progress / (1 - self._settled_share), 1.0)
        return self._first_temperature * tf.pow(
            self._last_temperature / self._first_temperature, done
        )

    def mixtures(
        self, images: tf.Tensor, noise: Noise, temperature: float | tf.Tensor
    ) -> tf.Tensor:
        """What the selectors take of images [B, H, W, C] at a temperature, float32 [B, k].

        Every `images_per_draw` positions share a draw of the selectors' noise, since each costs
        k * D logarithms: one a step would be the authors', one an image costs the most and varies
        the least.
        """
        groups, own_group = noise.shared(self._images_per_draw)
        drawn = gumbel(groups.uniform("selectors", tuple(self.logits.shape)))  # [G, k, D]
        weights = tf.nn.softmax((self.logits + drawn) / temperature)
        rows = tf.reshape(images, [-1, weights.shape[-1]])
        by_groups = tf.einsum("bd,gkd->bgk", rows, weights)
        return tf.einsum("bgk,bg->bk", by_groups, tf.one_hot(own_group, by_groups.shape[1]))

    def mean_largest_probability(self) -> float:
        """How settled the selectors are: the mean over them of the largest of softmax(logits).

        It is how probably a draw, at whatever temperature, has its largest weight where they have.
        """
        return float(tf.reduce_mean(tf.reduce_max(tf.nn.softmax(self.logits), axis=-1)))

    def has_converged(self) -> bool:
        """Whether `stop_when_settled`, and the mean largest probability is above 0.998."""
        return self._stop_when_settled and self.mean_largest_probability() > _SETTLED_ABOVE

    def selected_pixels(self) -> np.ndarray:
        """The selectors' pixels, all distinct, int [k]: (row * W + column) * C + channel."""
        return distinct_choice(self.logits).numpy()

    def own_metrics(self, measured: base.Measured) -> dict[str, Any]:
        """Which pixels were selected, and what others make of them.

        `selected_pixels`, in the order of the code; `mean_largest_probability`. Learned from the
        training images, and measured on the test images: `linear_readout_mse`, of a linear
        regression of all pixels on the selected ones, and, where there are labels,
        `extra_trees_accuracy`, by 50 extremely randomised trees on the selected ones. Of PCA with k
        components, the first is its `pca_mse`; the second is `pca_extra_trees_accuracy`.
        """
        from sklearn.linear_model import LinearRegression  # a second that training does not need

        pixels = self.selected_pixels()
        train, test = (
            images.reshape(len(images), -1) for images in (measured.train, measured.test)
        )
        readout = LinearRegression().fit(train[:, pixels], train)
        error = np.square(readout.predict(test[:, pixels]) - test).mean(dtype=np.float64)
        own = {
            "selected_pixels": pixels.tolist(),
            "mean_largest_probability": self.mean_largest_probability(),
            "linear_readout_mse": float(error),
        }
        if measured.train_labels is None or measured.test_labels is None:
            return own
        labels = measured.train_labels, measured.test_labels
        pca = measured.pca
        return own | {
            "extra_trees_accuracy": _trees_accuracy(train[:, pixels], test[:, pixels], *labels),
            "pca_extra_trees_accuracy": _trees_accuracy(
                pca.transform(train), pca.transform(test), *labels
            ),
        }

    def own_pictures(
        self, measured: base.Measured, metrics: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Where the selected pixels are, on the mean of the training images; nothing of vectors."""
        return _marked_pixels(measured.train, metrics["selected_pixels"])

    def validation_pictures(self, images: np.ndarray, noise: Noise) -> dict[str, np.ndarray]:
        """Where the pixels are that the selectors would take now."""
        del noise
        return _marked_pixels(images, self.selected_pixels())


class Selectors(layers.Layer):
    """Rows [B, D] to the k of their numbers that the logits choose, [B, k].

    The logits are `rate` times the weights. A step of Adam is as long whatever the scale of the
    gradient, so that they learn at `rate` times the rate of the decoder; they begin small, with
    Glorot's variance, whatever the rate.
    """

    def __init__(self, count: int, rate: float, **settings):
        super().__init__(**settings)
        self._count = count
        self._rate = rate

    def build(self, input_shape):
        features = input_shape[-1]
        spread = math.sqrt(2 / (self._count + features)) / self._rate
        normal = keras.initializers.RandomNormal(stddev=spread)
        self._weights = self.add_weight((self._count, features), normal, name="scaled_logits")

    @property
    def logits(self) -> tf.Tensor:
        """float32 [k, D]."""
        return self._rate * tf.convert_to_tensor(self._weights)

    def call(self, rows):
        return tf.gather(rows, distinct_choice(self.logits), axis=1)

    def plain_keras(self, rows: keras.KerasTensor) -> keras.KerasTensor:
        """What `call` gives, by Keras's own operation: the chosen columns are constants of it."""
        return keras.ops.take(rows, distinct_choice(self.logits).numpy().tolist(), axis=1)


def gumbel(uniform: tf.Tensor) -> tf.Tensor:
    """Standard Gumbel numbers -log(-log u) of uniform ones in [0, 1)."""
    return -tf.math.log(-tf.math.log(tf.maximum(uniform, _SMALLEST_UNIFORM)))


def distinct_choice(logits: tf.Tensor) -> tf.Tensor:
    """A column for each row of logits [k, D], k <= D, no two the same: int32 [k].

    The largest entry is taken and its row and column are struck out, k times over. So each row has
    its argmax, unless a row that wants the same one more got it. Of equal entries the first counts.
    """
    rows, columns = logits.shape
    row_numbers, column_numbers = tf.range(rows), tf.range(columns)

    # An entry that is the largest of both its row and its column will be taken whatever is taken
    # before, so that all of these are taken at once: a round or two, where few rows want the same.
    def take(left, chosen):
        column = _first(left, column_numbers, axis=1)  # [k], that each row wants
        row = _first(left, row_numbers[:, tf.newaxis], axis=0)  # [D]
        taken = tf.logical_and(chosen < 0, tf.gather(row, column) == row_numbers)
        chosen = tf.where(taken, column, chosen)
        gone = tf.reduce_any(chosen[:, tf.newaxis] == column_numbers, axis=0)
        struck = tf.logical_or(chosen[:, tf.newaxis] >= 0, gone)
        return tf.where(struck, -math.inf, left), chosen

    _, chosen = tf.while_loop(
        lambda _, chosen: tf.reduce_any(chosen < 0),
        take,
        (tf.stop_gradient(logits), tf.fill([rows], -1)),
        maximum_iterations=rows,
    )
    return chosen


def _marked_pixels(
    images: np.ndarray, selected: Sequence[int] | np.ndarray
) -> dict[str, np.ndarray]:
    """The selected pixels on the mean of images [N, H, W, C], as a picture; of vectors none."""
    mean = images.mean(axis=0)
    if mean.ndim == 1:
        return {}
    rows, columns, _ = np.unravel_index(selected, mean.shape)
    marks = np.zeros(mean.shape[:2], bool)
    marks[rows, columns] = True
    return {"selected_pixels": figures.mark_pixels(mean, marks)}


def _first(values: tf.Tensor, numbers: tf.Tensor, axis: int) -> tf.Tensor:
    """The argmax along an axis; which of equal values that takes is the device's choice."""
    largest = tf.equal(values, tf.reduce_max(values, axis, keepdims=True))
    return tf.reduce_min(tf.where(largest, numbers, 0x7FFFFFFF), axis)


def _trees_accuracy(
    train: np.ndarray, test: np.ndarray, train_labels: np.ndarray, test_labels: np.ndarray
) -> float:
    from sklearn.ensemble import ExtraTreesClassifier

    trees = ExtraTreesClassifier(_TREES, random_state=0, n_jobs=-1)
    return float(trees.fit(train, train_labels).score(test, test_labels))
