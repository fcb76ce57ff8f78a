"""Divides the steps of a run into phases: the pretraining of each layer, then all layers."""

import dataclasses
import itertools

from trainer.config import Config, phase_ends
from trainer.models.base import Autoencoder
from trainer.models.learner import Learner


@dataclasses.dataclass(frozen=True)
class Phase:
    """Describes steps that train the same variables, by an optimizer and a schedule of their own.

    Steps, and with them the order of the examples and the noise, are counted over the whole run.
    """

    first_step: int
    end: int  # the step after the last
    layer: int = 0  # that is trained, counted from 1 at the image; 0: all layers

    @property
    def marks(self) -> dict[str, int]:
        """Returns what a row of the metrics log says of the phase."""
        return {"layer": self.layer} if self.layer else {}

    def tag(self, metric: str) -> str:
        """Returns TensorBoard's tag of a loss or of a term of the loss."""
        return f"pretrain/layer_{self.layer}{metric.removeprefix('loss')}" if self.layer else metric

    def learner(self, model: Autoencoder) -> Learner:
        """Returns what the steps train: the model, or one of its layers."""
        return model.layer_pair(self.layer - 1) if self.layer else model


def phases_of(config: Config, examples: int) -> tuple[Phase, ...]:
    """Returns the phases of a run on so many training examples; the last trains all layers."""
    *ends, last_step = phase_ends(config, examples)
    borders = itertools.pairwise([0, *ends])
    pretraining = [Phase(first, end, layer) for layer, (first, end) in enumerate(borders, start=1)]
    return (*pretraining, Phase(ends[-1] if ends else 0, last_step))


def phase_at(phases: tuple[Phase, ...], step: int) -> Phase:
    """Returns the phase that takes a step; at the end of the run, the last."""
    return next((phase for phase in phases if step < phase.end), phases[-1])
