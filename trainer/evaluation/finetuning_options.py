"""Declares the settings of a fine-tuning, each once, for its flags, its check and its results."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.config import Averaging, Group, defaults_of, key, keys
from trainer.errors import require

_SCHEDULES = ("constant", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class FineTuning(Group):
    """Holds the settings of a fine-tuning, named as the flags."""

    num_epochs: int = key(20, "Most passes over the labelled images.", at_least=1)
    batch_size: int = key(100, "Images per step, over all replicas.", at_least=1)
    learning_rate: float = key(3e-3, "Highest learning rate of the schedule.", above=0)
    schedule: str = key(
        "cosine",
        "Schedule of the learning rate; linear and cosine fall to 0 at the end of num_epochs.",
        choices=_SCHEDULES,
    )
    patience_epochs: int = key(
        10,
        "End after this many epochs without a better validation error; 0: train num_epochs. The "
        "weights of the best epoch are kept.",
        at_least=0,
    )
    input_dropout: float = key(
        0.0, "Share of the pixels or features set to 0, drawn anew each step.", at_least=0, below=1
    )
    code_dropout: float = key(
        0.0, "Share of the code's units set to 0, drawn anew each step.", at_least=0, below=1
    )
    hidden_dropout: float = key(
        0.0,
        "Share of the units of the encoder's hidden dense layers set to 0, drawn anew each step.",
        at_least=0,
        below=1,
    )
    weight_decay: float = key(
        0.0,
        "Decoupled weight decay, multiplied by the learning rate (AdamW); 0: Adam.",
        at_least=0,
    )
    label_smoothing: float = key(
        0.0,
        "Share of the target that is spread evenly over all classes, in training.",
        at_least=0,
        below=1,
    )
    freeze_epochs: int = key(
        0,
        "Epochs at the beginning in which the softmax layer alone learns; then Adam begins anew "
        "with all weights.",
        at_least=0,
    )
    linear: bool = key(
        False,
        "Train the softmax layer alone, as a linear classifier of the codes; the encoder's weights "
        "stay fixed.",
    )
    averaging_decay: float = key(
        0.0,
        "Decay per step of an exponential average of the weights, which is validated and kept in "
        "place of the weights; 0: no such average.",
        at_least=0,
        below=1,
    )
    averaging_last_share: float = key(
        0.0,
        "Average the weights uniformly over the last steps, this share of all after the frozen "
        "epochs; 0: no such average.",
        at_least=0,
        at_most=1,
    )
    labels: int = key(
        0, "Number of labelled images to learn from, chosen at random; 0: all.", at_least=0
    )
    refit: bool = key(
        False,
        "Learn from training and validation images together and keep the last weights: for "
        "settings that were chosen before.",
    )
    from_scratch: bool = key(
        False, "Begin with the weights that the run began with, as a baseline."
    )

    @property
    def name(self) -> str:
        """Returns the name of the files, without suffix."""
        parts = ("from_scratch", "linear", "refit")
        return "_".join(part for part in parts if getattr(self, part)) or "finetuned"

    @property
    def averaging(self) -> Averaging:
        """Returns the settings of the average of the weights."""
        return Averaging(self.averaging_decay, self.averaging_last_share)

    def check(self) -> None:
        """Raises UserError where a setting is out of range or two contradict each other."""
        for name, (kind, declared) in keys(FineTuning).items():
            declared.parse(name, kind, getattr(self, name))
        require(
            self.freeze_epochs < self.num_epochs,
            f"freeze_epochs={self.freeze_epochs} is not allowed with num_epochs={self.num_epochs}; "
            "it must be less; to keep the encoder frozen, use linear",
        )
        require(
            not (self.linear and self.freeze_epochs),
            f"freeze_epochs={self.freeze_epochs} is not allowed with linear, which freezes the "
            "encoder in all epochs",
        )
        require(
            not (self.averaging_decay and self.averaging_last_share),
            f"averaging_decay={self.averaging_decay} is not allowed with averaging_last_share="
            f"{self.averaging_last_share}; the average is exponential or uniform",
        )
        require(
            not (self.refit and self.patience_epochs),
            f"patience_epochs={self.patience_epochs} is not allowed with refit, which learns from "
            "the validation images; num_epochs alone ends it",
        )
        require(
            not (self.refit and self.labels),
            f"labels={self.labels} is not allowed with refit, which learns from all images but "
            "the test images",
        )


def settings_of(metrics: Mapping[str, Any]) -> FineTuning:
    """Returns the settings that are among the metrics."""
    return FineTuning(**{name: metrics[name] for name in keys(FineTuning)})


def changed(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings, of those among the metrics, that are not the defaults."""
    defaults = defaults_of(FineTuning).items()
    return {name: metrics[name] for name, default in defaults if metrics[name] != default}
