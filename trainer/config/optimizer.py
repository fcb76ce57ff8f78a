"""Declares the keys of how the weights are updated and averaged."""

import dataclasses
import itertools

from trainer.config.schema import Group, key
from trainer.errors import require

SCHEDULES = ("constant", "step", "exponential", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class Optimizer(Group):
    """Declares how the weights are updated."""

    name: str = key(
        "adam", "Optimizer of Keras.", choices=("adam", "adamw", "sgd", "rmsprop", "adadelta")
    )
    learning_rate: float = key(1e-3, "Highest learning rate of the schedule.", at_least=0)
    schedule: str = key(
        "cosine",
        "Schedule of the learning rate: step changes it at optimizer.boundaries_epochs; "
        "exponential, linear and cosine let it fall to optimizer.final_share at the last step.",
        choices=SCHEDULES,
    )
    final_share: float = key(
        0.0,
        "Share of the learning rate that an exponential, linear or cosine schedule ends at.",
        at_least=0,
        at_most=1,
    )
    boundaries_epochs: tuple[float, ...] = key(
        (), "Epochs, in rising order, at which a step schedule changes the rate.", at_least=0
    )
    boundary_factors: tuple[float, ...] = key(
        (),
        "Factor of optimizer.learning_rate from each boundary to the next, not cumulative.",
        at_least=0,
        at_most=1,
    )
    warmup_steps: int = key(
        0, "Steps in which a factor of the schedule rises linearly from 0 to 1.", at_least=0
    )
    clip_norm: float = key(
        0.0, "Global norm to which larger gradients are scaled down; 0: no clipping.", at_least=0
    )
    weight_decay: float = key(
        0.0,
        "Decoupled weight decay, multiplied by the learning rate.",
        at_least=0,
    )
    momentum: float = key(
        0.0,
        "Momentum of sgd, such as 0.9; 0: none.",
        at_least=0,
        below=1,
    )
    beta_1: float = key(0.9, "Decay of the mean gradient, of adam and adamw.", at_least=0, below=1)
    beta_2: float = key(
        0.999, "Decay of the mean squared gradient, of adam and adamw.", at_least=0, below=1
    )
    epsilon: float = key(
        1e-7,
        "Added to the root of the mean squared gradient, except in sgd; gradients of the mean over "
        "many pixels may be smaller.",
        above=0,
    )

    def check(self) -> None:
        require(
            self.momentum == 0 or self.name == "sgd",
            f"optimizer.momentum={self.momentum} needs optimizer.name='sgd', not {self.name!r}; "
            "set optimizer.momentum=0 (adam and adamw have beta_1)",
        )
        given = f"is not allowed with optimizer.schedule={self.schedule!r}"
        require(
            self.final_share == 0 or self.schedule in ("exponential", "linear", "cosine"),
            f"optimizer.final_share={self.final_share} {given}; exponential, linear and cosine "
            "schedules fall to it",
        )
        require(
            self.final_share > 0 or self.schedule != "exponential",
            f"optimizer.final_share={self.final_share} {given}; it must be above 0",
        )
        epochs, factors = self.boundaries_epochs, self.boundary_factors
        for name, values in (("boundaries_epochs", epochs), ("boundary_factors", factors)):
            require(
                bool(values) == (self.schedule == "step"),
                f"optimizer.{name}={values} {given}; a step schedule needs a value for each "
                "boundary, other schedules have none",
            )
        require(
            len(epochs) == len(factors),
            f"optimizer.boundary_factors={factors} is not allowed with "
            f"optimizer.boundaries_epochs={epochs}; each boundary has one factor",
        )
        require(
            all(before < after for before, after in itertools.pairwise(epochs)),
            f"optimizer.boundaries_epochs={epochs} is not allowed; each must be above the one "
            "before it",
        )


@dataclasses.dataclass(frozen=True)
class Averaging(Group):
    """Declares an average of the weights over the steps, which validation and all commands use."""

    decay: float = key(
        0.0,
        "Decay per step of an exponential average of the weights, which validations, checkpoints "
        "and all commands then use; 0: no such average.",
        at_least=0,
        below=1,
    )
    last_share: float = key(
        0.0,
        "Average the weights uniformly over the last steps, this share of all; 0: no such average.",
        at_least=0,
        at_most=1,
    )

    @property
    def is_active(self) -> bool:
        """Returns whether the weights are averaged."""
        return self != Averaging()

    def check(self) -> None:
        require(
            self.decay == 0 or self.last_share == 0,
            f"averaging.decay={self.decay} is not allowed with averaging.last_share="
            f"{self.last_share}; the average is exponential or uniform, and the other is 0",
        )
