"""Builds the concrete kind: its selectors, its decoder and its loss."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainer.models import base, networks
from trainer.models.concrete import SETTLED_ABOVE, Settings, advice
from trainer.positions import Noise


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
        self._settings = settings

    @property
    def logits(self) -> tf.Tensor:
        """Returns the selectors' logits, float32 [k, D]."""
        return self.encoder.get_layer("code").logits

    def loss_terms(self, images: tf.Tensor, context: base.StepContext) -> dict[str, tf.Tensor]:
        """Returns the reconstruction error from mixtures or, once settled, from single pixels."""

        def selected():
            # The gradient of the images would be a scatter, which XLA on a GPU does one by one.
            return tf.stop_gradient(self.encode(images))

        def mixed():
            return self.mixtures(images, context.noise, self.temperature(context.progress))

        if not context.training:
            codes = selected()
        elif self._settings.settled_share == 0:
            codes = mixed()
        else:
            codes = tf.cond(context.progress < 1 - self._settings.settled_share, mixed, selected)
        return self.error_term(self.decoder(codes), images)

    def temperature(self, progress: tf.Tensor) -> tf.Tensor:
        """Returns T = first * (last / first)**p, with p the progress up to `settled_share`."""
        done = tf.minimum(progress / (1 - self._settings.settled_share), 1.0)
        first, last = self._settings.first_temperature, self._settings.last_temperature
        return first * tf.pow(last / first, done)

    def mixtures(
        self, images: tf.Tensor, noise: Noise, temperature: float | tf.Tensor
    ) -> tf.Tensor:
        """Returns the selectors' mixtures of images [B, H, W, C] at a temperature, float32 [B, k].

        Every `images_per_draw` positions share a draw of the selectors' noise, since a draw costs
        k * D logarithms. The authors draw once a step; one draw an image varies the least.
        """
        groups, own_group = noise.shared(self._settings.images_per_draw)
        gumbels = groups.gumbel("selectors", tuple(self.logits.shape))  # [G, k, D]
        weights = tf.nn.softmax((self.logits + gumbels) / temperature)
        rows = tf.reshape(images, [-1, weights.shape[-1]])
        by_groups = tf.einsum("bd,gkd->bgk", rows, weights)
        return tf.einsum("bgk,bg->bk", by_groups, tf.one_hot(own_group, by_groups.shape[1]))

    def mean_largest_probability(self) -> float:
        """Returns the mean over the selectors of the largest of softmax(logits).

        At any temperature, a draw has its largest weight at the same pixel with this probability.
        """
        return float(tf.reduce_mean(tf.reduce_max(tf.nn.softmax(self.logits), axis=-1)))

    def has_converged(self) -> bool:
        """Returns whether the selectors are settled and `stop_when_settled` is set."""
        return self._settings.stop_when_settled and self.mean_largest_probability() > SETTLED_ABOVE

    def advice(self) -> str:
        """Returns a line for the user if the selectors have not settled."""
        return advice(self.mean_largest_probability())

    def selected_pixels(self) -> np.ndarray:
        """Returns the selectors' distinct pixels, int [k]: (row * W + column) * C + channel."""
        return distinct_choice(self.logits).numpy()

    def marked_pixels(self, images: np.ndarray) -> base.ImageGrid | None:
        """Marks the selected pixels on the mean of images [N, H, W, C]; None for vectors."""
        mean = images.mean(axis=0)
        if mean.ndim == 1:
            return None
        rows, columns, _ = np.unravel_index(self.selected_pixels(), mean.shape)
        marks = np.zeros((1, *mean.shape[:2]), bool)
        marks[0, rows, columns] = True
        return base.ImageGrid(mean[np.newaxis], columns=1, gap=0, marks=marks)

    def validation_images(self, images: np.ndarray, noise: Noise) -> dict[str, base.ImageGrid]:
        """Adds `selected_pixels`, the pixels that the selectors would take now."""
        marked = self.marked_pixels(images)
        own = {} if marked is None else {"selected_pixels": marked}
        return super().validation_images(images, noise) | own


class Selectors(layers.Layer):
    """Selects k values of each row [B, D] by the largest logits, [B, k].

    The logits are `rate` times the weights. The length of Adam's steps does not depend on the scale
    of the gradient, so the logits learn at `rate` times the decoder's learning rate. The initial
    logits have Glorot's variance, whatever the rate.
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
        """Returns the logits, float32 [k, D]."""
        return self._rate * tf.convert_to_tensor(self._weights)

    def call(self, rows):
        return tf.gather(rows, distinct_choice(self.logits), axis=1)

    def plain_keras(self, rows: keras.KerasTensor) -> keras.KerasTensor:
        """Selects the columns of `call` by an operation of Keras, with constant indices."""
        return keras.ops.take(rows, distinct_choice(self.logits).numpy().tolist(), axis=1)


def distinct_choice(logits: tf.Tensor) -> tf.Tensor:
    """Chooses a column for each row of logits [k, D], k <= D, no two the same: int32 [k].

    Takes the largest entry and strikes out its row and column, k times over. So each row gets its
    argmax, unless another row has a larger entry in that column. Of equal entries the first counts.
    """
    rows, columns = logits.shape
    # A NaN would have no place; it shows in the loss.
    ranked = tf.stop_gradient(tf.where(tf.math.is_nan(logits), logits.dtype.min, logits))
    row_numbers, column_numbers = tf.range(rows), tf.range(columns)

    # An entry that is the largest of its row and of its column is taken in any order. So a round
    # takes all such entries at once; few rounds are needed if few rows share an argmax.
    def take(left, chosen):
        column = _first(left, column_numbers, axis=1)  # [k], the argmax of each row
        row = _first(left, row_numbers[:, tf.newaxis], axis=0)  # [D]
        taken = tf.logical_and(chosen < 0, tf.gather(row, column) == row_numbers)
        chosen = tf.where(taken, column, chosen)
        gone = tf.reduce_any(chosen[:, tf.newaxis] == column_numbers, axis=0)
        struck = tf.logical_or(chosen[:, tf.newaxis] >= 0, gone)
        return tf.where(struck, -math.inf, left), chosen

    _, chosen = tf.while_loop(
        lambda _, chosen: tf.reduce_any(chosen < 0),
        take,
        (ranked, tf.fill([rows], -1)),
        maximum_iterations=rows,
    )
    return chosen


def _first(values: tf.Tensor, numbers: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns the first argmax along an axis; tf.argmax leaves the choice to the device."""
    largest = tf.equal(values, tf.reduce_max(values, axis, keepdims=True))
    return tf.reduce_min(tf.where(largest, numbers, 0x7FFFFFFF), axis)
