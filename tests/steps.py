"""Steps of a small model by Adam at one rate, for what is asked of a kind and not of a run."""

import tensorflow as tf

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
    batch_size=8,
    last_step=10,
):
    """The model that `create` builds on so many CPU devices, and its steps."""
    strategy = make_strategy(f"cpu:{devices}")
    model = build_model(strategy, precision, create)
    steps = Steps(
        strategy,
        model,
        lambda: optimizers.create("adam", clip_norm=0.0, weight_decay=0.0),
        lambda _: tf.constant(learning_rate),
        StepSettings(precision, batch_size, seed=0, last_step=last_step),
        execution=execution,
    )
    return model, steps
