"""Steps of a small model by Adam, for what is asked of a kind or of a step and not of a run."""

import tensorflow as tf

from trainer.config import Optimizer
from trainer.distribution import optimizers
from trainer.distribution.step import Steps, StepSettings
from trainer.distribution.strategy import build_model, make_strategy


def adam_steps(
    create,
    devices=1,
    execution="graph",
    *,
    precision="float32",
    learning_rate=1e-3,
    clip_norm=0.0,
    **settings,
):
    """The model that `create` builds on so many CPU devices, and its steps.

    The learning rate is a number or a schedule; `settings` are the other fields of `StepSettings`.
    """
    strategy = make_strategy(f"cpu:{devices}")
    model = build_model(strategy, precision, create)
    steps = Steps(
        strategy,
        model,
        lambda: optimizers.create(Optimizer(name="adam", clip_norm=clip_norm)),
        learning_rate if callable(learning_rate) else lambda _: tf.constant(learning_rate),
        StepSettings(precision, **{"batch_size": 8, "seed": 0, "last_step": 10} | settings),
        execution=execution,
    )
    return model, steps
