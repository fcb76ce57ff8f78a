"""Defines what steps train: models with loss terms per example."""

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

if TYPE_CHECKING:
    from trainer.models.base import StepContext

StateUpdates = list[tuple[keras.Variable, tf.Tensor]]  # variables and their new values


class Learner:
    """Declares what steps train: variables and a loss; batch means and state are optional."""

    layers: Any
    variables: Any
    trainable_variables: Any
    logged_terms: frozenset[str] = frozenset()  # of `loss_terms`: logged, but not of the loss

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

    def statistics(self, images: tf.Tensor) -> tf.Tensor | None:
        """Returns values, float32 [B, S], whose means over the global batch a loss term needs.

        The means arrive as `StepContext.batch_means`, for `means_of_each`. None: they are unused.
        """
        del images
        return None

    def shared_values(self, images: tf.Tensor) -> tf.Tensor | None:
        """Returns values, float32 [B, S], that a loss term needs of all rows of the global batch.

        They arrive in training steps as `StepContext.batch_values`. None: they are unused.
        """
        del images
        return None
