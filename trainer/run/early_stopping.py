"""Ends a run whose validation loss no longer falls, by its logged losses alone."""

import math
from collections.abc import Sequence

from trainer.config import Stop
from trainer.run.metrics_log import validations
from trainer.run.workdir import Run


def validation_losses(run: Run) -> list[float]:
    """Returns the losses of the validations that a run has logged, in their order.

    Leaves the pretraining of single layers out. Returns none without `stop.patience_validations`: a
    long log takes seconds to read.
    """
    if not run.config.stop.patience_validations:
        return []
    return [row["loss"] for row in validations(run.log.rows())]


def is_exhausted(losses: Sequence[float], stop: Stop) -> bool:
    """Returns whether the last validations were too many without a lower loss."""
    lowest, without = math.inf, 0
    for loss in losses:
        without = 0 if loss < lowest - stop.min_delta else without + 1
        lowest = loss if without == 0 else lowest
    return 0 < stop.patience_validations <= without
