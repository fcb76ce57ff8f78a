"""Defines what steps train: models with loss terms per example."""

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

if TYPE_CHECKING:
    from trainer.models.base import StepContext
    from trainer.positions import Noise

StateUpdates = list[tuple[keras.Variable, tf.Tensor]]  # variables and their new values
# Variables, which of their values are replaced (a mask that broadcasts to them), and by what
Replacements = list[tuple[keras.Variable, tf.Tensor, tf.Tensor]]


class Learner:
    """Declares what steps train: variables and a loss; batch means and state are optional."""

    resample_every_steps = 0  # after which `resampled` replaces weights; 0: never
    logged_terms: frozenset[str] = frozenset()  # of `loss_terms`: logged, but not added to the loss
    layers: Any
    variables: Any
    trainable_variables: Any

    def loss_terms(self, images: tf.Tensor, context: "StepContext") -> dict[str, tf.Tensor]:
        """Returns the terms of the loss, each float32 [B]; training minimises their sum.

        The `logged_terms` are not part of the sum.
        """
        raise NotImplementedError

    def training_terms(
        self, images: tf.Tensor, context: "StepContext"
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        """Returns the loss terms of a training step, and values [B, S] that change the state.

        The means of the values over the global batch arrive in `state_updates`. None: no state.
        """
        return self.loss_terms(images, context), None

    def state_updates(self, batch_means: tf.Tensor) -> StateUpdates:
        """Returns the variables that a training step changes without a gradient, and their values.

        The variables are float32, not trainable and have no aggregation. A step that float16 skips
        leaves them as they are.
        """
        del batch_means
        return []

    def resampling_values(self, images: tf.Tensor, noise: "Noise") -> tf.Tensor:
        """Returns what `resampled` needs of each example of a step's batch, float32 [B, S].

        The weights are those before the step.
        """
        raise NotImplementedError

    def resampled(self, batch_values: tf.Tensor) -> Replacements:
        """Returns the weights to replace, by the values of all rows of the global batch.

        The optimizer's slots of a value that is replaced begin anew.
        """
        raise NotImplementedError

    def statistics(self, images: tf.Tensor) -> tf.Tensor | None:
        """Returns values, float32 [B, S], whose means over the global batch a loss term needs.

        The means arrive as `StepContext.batch_means`, for `with_gradient_of`. None: not used.
        """
        del images
        return None

    def shared_values(self, images: tf.Tensor) -> tf.Tensor | None:
        """Returns values, float32 [B, S], that a loss term needs of all rows of the global batch.

        In training they arrive as `StepContext.batch_values`, without a gradient, and
        `StepContext.first_row` is the row of the replica's first example. In an evaluation
        there are no `batch_values`; omit the term. None: no term needs these values.
        """
        del images
        return None
