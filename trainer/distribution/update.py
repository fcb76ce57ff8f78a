"""The optimizer on the replicas, for gradients that are summed over them already."""

from collections.abc import Callable

import keras
import tensorflow as tf

from trainer.distribution import private_api


def build_optimizer(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    create: Callable[[], keras.optimizers.Optimizer],
    loss_scale_growth_steps: int | None,
) -> keras.optimizers.Optimizer:
    """Builds an optimizer on the replicas, with dynamic loss scaling if its growth is given."""
    with strategy.scope():
        optimizer = create()
        private_api.leave_gradients_unsummed(optimizer)
        if loss_scale_growth_steps is not None:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, dynamic_growth_steps=loss_scale_growth_steps, name="loss_scale"
            )
        optimizer.build(model.trainable_variables)
    return optimizer


def scales_losses(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether losses are scaled, so that an overflow of the gradients skips a step."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def loss_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Returns the factor of the next step's losses, float32 []."""
    return (
        tf.convert_to_tensor(optimizer.dynamic_scale) if scales_losses(optimizer) else tf.ones(())
    )


def needs_gradient_norm(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether every step needs the norm: to clip gradients, or to find an overflow."""
    return scales_losses(optimizer) or bool(optimizer.global_clipnorm)
