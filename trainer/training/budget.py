"""Chooses the length of a run and its steps by the number of its training examples."""

import dataclasses
import math

from trainer.config import Config

_EXAMPLES = 400_000  # that a run sees, in more epochs of few examples and in fewer of many
_MIN_EPOCHS, _MAX_EPOCHS = 20, 500
_MIN_BATCH, _MAX_BATCH = 16, 512
_WARMUP_SHARE, _MAX_WARMUP_STEPS = 0.05, 200
_VALIDATIONS = 100
_MIN_INTERVAL_STEPS = 30  # between validations, unless an epoch is shorter


def resolved(config: Config, examples: int, earlier: Config | None = None) -> Config:
    """Returns a config with the keys that follow from the number of training examples.

    A batch is the largest power of two up to the square root of the number, within 16 and 512: it
    can be divided among 2, 4, 8 or 16 replicas. An epoch has then about as many steps. A run sees
    400,000 examples, in 20 epochs at least and in 500 at most, and validates 100 times, but not
    more often than each epoch or, if an epoch is longer, every 30 steps. A resumed run keeps the
    warm-up of its `earlier` config, which would otherwise change with num_epochs.
    """
    if not config.keys_set_by_budget:
        return config
    root = 2 ** math.floor(math.log2(max(examples, 1)) / 2)
    batch_size = config.batch_size or min(max(root, _MIN_BATCH), _MAX_BATCH)
    epochs = min(max(_EXAMPLES / examples, _MIN_EPOCHS), _MAX_EPOCHS)
    num_epochs = config.num_epochs or float(round(epochs))
    steps = math.ceil(num_epochs * examples / batch_size)
    warmup_steps = min(math.ceil(_WARMUP_SHARE * steps), _MAX_WARMUP_STEPS)
    if earlier is not None:
        warmup_steps = earlier.optimizer.warmup_steps
    interval = max(
        math.ceil(steps / _VALIDATIONS), min(math.ceil(examples / batch_size), _MIN_INTERVAL_STEPS)
    )
    optimizer = config.optimizer
    if not optimizer.warmup_steps:
        optimizer = dataclasses.replace(optimizer, warmup_steps=warmup_steps)
    return dataclasses.replace(
        config,
        batch_size=batch_size,
        num_epochs=num_epochs,
        optimizer=optimizer,
        validate_every_steps=config.validate_every_steps or interval,
    )


def describe(config: Config) -> str:
    """Describes what `resolved` has chosen, in one line."""
    return (
        f"budget=auto: {config.num_epochs:g} epochs, batches of {config.batch_size}, "
        f"{config.optimizer.warmup_steps} steps of warm-up, "
        f"a validation every {config.validate_every_steps} steps"
    )
