"""The images that a code of two numbers spans."""

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.monitoring import figures

ORDER = 93


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the model has a prior of two numbers."""
    return evaluated.model.manifold() is not None


def measure(evaluated: EvaluatedModel) -> Result:
    """Draws `manifold`."""
    return Result({}, {"manifold": figures.grid(**vars(evaluated.model.manifold()))})
