"""The optimizer's update, on every replica the same."""

from collections.abc import Callable

import keras

from trainer.distribution import private_api
from trainer.distribution.strategy import Strategy


def build_optimizer(
    strategy: Strategy,
    model: keras.Model,
    create: Callable[[], keras.optimizers.Optimizer],
    loss_scale_growth_steps: int | None,
) -> keras.optimizers.Optimizer:
    """Builds an optimizer on the replicas, for gradients that are summed over them already.

    With `loss_scale_growth_steps` its losses are scaled, dynamically.
    """
    with strategy.scope():
        optimizer = create()
        private_api.leave_gradients_unsummed(optimizer)
        if loss_scale_growth_steps is not None:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, dynamic_growth_steps=loss_scale_growth_steps, name="loss_scale"
            )
        optimizer.build(model.trainable_variables)
    return optimizer
