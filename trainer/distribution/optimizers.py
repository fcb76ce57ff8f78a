"""Creates optimizers by name, with their learning rate and loss scale."""

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from trainer.config import Optimizer
from trainer.distribution import private_api

# The class of each optimizer, and how many numbers it keeps per parameter without momentum.
_OPTIMIZERS = {
    "adam": (keras.optimizers.Adam, 2),
    "adamw": (keras.optimizers.AdamW, 2),
    "sgd": (keras.optimizers.SGD, 0),
    "rmsprop": (keras.optimizers.RMSprop, 1),
    "adadelta": (keras.optimizers.Adadelta, 2),
}
_MAX_LOSS_SCALE = 2.0**32  # far above any scale that float16 gradients allow


def count_slots(settings: Optimizer) -> int:
    """Returns how many numbers an optimizer keeps for each parameter."""
    return _OPTIMIZERS[settings.name][1] + (settings.momentum > 0)


def create(settings: Optimizer) -> keras.optimizers.Optimizer:
    """Creates an optimizer; every step sets the learning rate, and 0 turns clipping or decay off.

    `momentum` applies to SGD only, the betas to Adam and AdamW, `epsilon` to all but SGD.
    """
    name, weight_decay = settings.name, settings.weight_decay
    own = {"momentum": settings.momentum} if name == "sgd" else {"epsilon": settings.epsilon}
    if name.startswith("adam"):
        own |= {"beta_1": settings.beta_1, "beta_2": settings.beta_2}
    make, _ = _OPTIMIZERS[name]
    return make(
        learning_rate=0.0,
        global_clipnorm=settings.clip_norm or None,
        weight_decay=weight_decay if name == "adamw" else weight_decay or None,
        name=name,
        **own,
    )


def learning_rate_schedule(
    name: str,
    *,
    learning_rate: float,
    warmup_steps: int,
    last_step: int,
    final_share: float = 0.0,
    boundaries: Sequence[tuple[int, float]] = (),
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the learning rate, float32 [], as a function of the step, int64 [].

    With p = step / last_step and f the final share, learning_rate is multiplied by
    "linear": f + (1 - f) * (1 - p); "cosine": f + (1 - f) * (1 + cos(pi * p)) / 2;
    "exponential": f**p; "step": from each of the `boundaries`, steps in rising order, on by its
    factor. The warm-up multiplies any schedule by (step + 1) / (warmup_steps + 1) until that
    reaches 1.
    """

    def schedule(step: tf.Tensor) -> tf.Tensor:
        now = tf.cast(step, tf.float32)
        rate = tf.minimum(1.0, (now + 1) / (warmup_steps + 1)) * learning_rate
        if name == "step":
            factor = tf.ones(())
            for boundary, from_there in boundaries:
                factor = tf.where(step >= boundary, from_there, factor)
            return rate * factor
        if name == "exponential":
            return rate * tf.pow(final_share, now / last_step)
        falling = 1.0
        if name == "linear":
            falling = 1 - now / last_step
        elif name == "cosine":
            falling = (1 + tf.cos(math.pi * now / last_step)) / 2
        return rate * (final_share + (1 - final_share) * falling)

    return schedule


def build(
    create_optimizer: Callable[[], keras.optimizers.Optimizer],
    strategy: tf.distribute.Strategy,
    variables: Sequence[keras.Variable],
    loss_scale_growth_steps: int | None = None,
) -> keras.optimizers.Optimizer:
    """Builds an optimizer on the replicas, for gradients that are summed over them already.

    With `loss_scale_growth_steps`, losses are scaled dynamically: the scale doubles after this many
    steps without an overflow of the gradients; an overflow halves it and skips the step.
    """
    with strategy.scope():
        optimizer = create_optimizer()
        private_api.leave_gradients_unsummed(optimizer)
        if loss_scale_growth_steps is not None:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, dynamic_growth_steps=loss_scale_growth_steps, name="loss_scale"
            )
        optimizer.build(variables)
    return optimizer


def slots_of(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> list[keras.Variable]:
    """Returns what an optimizer keeps for each number of a variable; 0 before the first step.

    Keras names a slot after its variable.
    """
    prefix = f"{variable.path.replace('/', '_')}_"
    slots = (slot for slot in optimizer.variables if slot.name.startswith(prefix))
    return [slot for slot in slots if slot.shape == variable.shape]


def scales_losses(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether losses are scaled, so that an overflow of the gradients skips a step."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def loss_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Returns the factor by which the next step's losses are scaled, float32 []."""
    if not scales_losses(optimizer):
        return tf.ones(())
    return tf.convert_to_tensor(optimizer.dynamic_scale)


def limit_loss_scale(optimizer: keras.optimizers.Optimizer) -> None:
    """Limits the loss scale, which would double without end where no gradient is float16."""
    if scales_losses(optimizer):
        optimizer.dynamic_scale.assign(tf.minimum(loss_scale(optimizer), _MAX_LOSS_SCALE))


def needs_gradient_norm(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether every step measures the norm: where it is limited, or gradients overflow."""
    return scales_losses(optimizer) or bool(optimizer.global_clipnorm)
