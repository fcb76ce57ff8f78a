"""Reads the share of the run's wall time spent on training steps, and the other shares."""

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.monitoring import goodput

ORDER = 100


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the run has a file of its times."""
    return (evaluated.workdir / goodput.FILE).exists()


def measure(evaluated: EvaluatedModel) -> Result:
    """Reads `wall_seconds`, and the share `goodput/<cause>` of each cause."""
    return Result(goodput.metrics(evaluated.workdir))
