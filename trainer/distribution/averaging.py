"""Averages the weights over the training steps, beside the weights that are trained.

After the n-th averaged step, average += share_n * (weights - average). The exponential average of
decay d takes share_n = (1 - d) / (1 - d**n). This corrects the bias as Adam does: the average of
the weights w_i is sum_i d**(n - i) w_i / sum_i d**(n - i), without the initial weights. The uniform
average takes share_n = 1 / n; before its first step it is the weights themselves.

Keras's `use_ema` leaves the first step's weights a share of d**(n - 1), and does not run where XLA
updates a replica.
"""

import contextlib
import math
from collections.abc import Iterator

import keras
import tensorflow as tf

from trainer.config import Averaging
from trainer.distribution.strategy import Strategy
from trainer.models.learner import Learner


class WeightAverage:
    """Holds an average of a model's trainable variables, on every replica."""

    def __init__(
        self,
        settings: Averaging,
        model: Learner,
        strategy: Strategy,
        last_step: int,
        first_step: int = 0,
    ):
        """Makes no variables unless the settings ask for an average."""
        self._model = model
        self._decay = settings.decay
        self._is_in_use = False
        self._first_step = 0
        self._averages: list[keras.Variable] = []
        if settings.last_share:
            steps = last_step - first_step
            self._first_step = last_step - max(1, round(settings.last_share * steps))
        if settings.is_active:
            with strategy.scope():
                self._averages = [
                    keras.Variable(variable.numpy(), trainable=False, dtype=variable.dtype)
                    for variable in model.trainable_variables
                ]
                self._count = keras.Variable(0, trainable=False, dtype="int64")

    def variables(self) -> dict[str, keras.Variable]:
        """Returns the state by the paths in a checkpoint, {} without an average."""
        if not self._averages:
            return {}
        averages = {f"average/{variable.path}": average for variable, average in self._pairs()}
        return averages | {"averaged_steps": self._count}

    def restart(self) -> None:
        """Sets the average to the current weights."""
        for variable, average in self._pairs():
            average.assign(variable.numpy())

    def update(self, step: tf.Tensor, applied: tf.Tensor) -> None:
        """Adds a replica's weights after a step, int64 []; a step not `applied` changes nothing."""
        if not self._averages:
            return
        count = tf.convert_to_tensor(self._count)
        counted = tf.where(step >= self._first_step, count + 1, 0)
        share = tf.where(counted > 1, self._share(tf.cast(counted, tf.float32)), 1.0)
        share = tf.where(applied, share, 0.0)
        self._count.assign(tf.where(applied, counted, count))
        for variable, average in self._pairs():
            average.assign(
                share * tf.convert_to_tensor(variable) + (1 - share) * tf.convert_to_tensor(average)
            )

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Gives the model the averaged weights inside; then its own again, to the bit.

        Within another use it does nothing.
        """
        if self._is_in_use:
            yield
            return
        pairs = self._pairs()
        weights = [variable.numpy() for variable, _ in pairs]
        self._is_in_use = True
        try:
            for variable, average in pairs:
                variable.assign(average.numpy())
            yield
        finally:
            for (variable, _), own in zip(pairs, weights, strict=True):
                variable.assign(own)
            self._is_in_use = False

    def _share(self, count: tf.Tensor) -> tf.Tensor:
        if self._decay:
            # expm1, since d**n is close to 1 at first.
            return (self._decay - 1) / tf.math.expm1(count * math.log(self._decay))
        return 1 / count

    def _pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Returns each averaged variable with its average; none without an average."""
        if not self._averages:
            return []
        return list(zip(self._model.trainable_variables, self._averages, strict=True))
