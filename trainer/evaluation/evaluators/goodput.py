"""The share of the run's wall time that its training steps had, and where the rest went."""

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.monitoring import goodput

ORDER = 100


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the run has written down its times."""
    return (evaluated.workdir / goodput.FILE).exists()


def measure(evaluated: EvaluatedModel) -> Result:
    """Reads `wall_seconds`, and the shares `goodput/<cause>` in them."""
    return Result(goodput.metrics(evaluated.workdir))
