"""Declares the keys of greedy layer-wise pretraining, and counts its steps."""

import dataclasses
import itertools
from typing import TYPE_CHECKING

from trainer.config.schema import Group, key
from trainer.errors import require

if TYPE_CHECKING:
    from trainer.config.groups import Config, ModelSettings


@dataclasses.dataclass(frozen=True)
class Pretrain(Group):
    """Declares how dense layers are trained one after the other, before all are trained."""

    epochs_per_layer: float = key(
        0.0,
        "Passes over the training examples for each layer, one layer after the other; then all "
        "are trained together for num_epochs; 0: no pretraining.",
        at_least=0,
    )
    learning_rate: float = key(
        0.0,
        "Highest learning rate of each layer's own schedule; 0: optimizer.learning_rate.",
        at_least=0,
    )

    def check_with(self, model: "ModelSettings") -> None:
        """Raises UserError if pretraining is asked of a model that has no stack of dense layers."""
        epochs = self.epochs_per_layer
        if not epochs:
            return
        mistake = f"pretrain.epochs_per_layer={epochs} is not allowed"
        layers = model.stacked_layers()
        require(
            layers > 0,
            f"{mistake} with model.name={model.name!r}"
            + (f" and model.network={model.network!r}" if hasattr(model, "network") else "")
            + ", which has no stack of dense layers"
            + ("; model.network='dense' has one" if hasattr(model, "network") else ""),
        )
        require(
            layers > 1,
            f"{mistake} for an encoder of 1 layer, which num_epochs trains; a stack has at least 2",
        )
        start = getattr(model, "start", "random")
        require(start == "random", f"{mistake} with model.start={start!r}; it needs 'random'")


def phase_ends(config: "Config", examples: int) -> tuple[int, ...]:
    """Returns the step at which the pretraining of each layer ends, and the run's last step."""
    epochs_per_layer = config.pretrain.epochs_per_layer
    layers = config.model.stacked_layers() if epochs_per_layer else 0
    epochs = [*[epochs_per_layer] * layers, config.num_epochs]
    return tuple(itertools.accumulate(config.steps_in(each, examples) for each in epochs))
