"""Images drawn from the prior."""

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.monitoring import figures

ORDER = 91
_SAMPLES = 100  # at most: with the noise of as many test images


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the model has a prior."""
    return evaluated.has_prior


def measure(evaluated: EvaluatedModel) -> Result:
    """Draws `prior_samples`."""
    model = evaluated.model
    samples = evaluated.map_with_noise(
        lambda _, noise: model.decode(model.prior_codes(noise)), evaluated.test[:_SAMPLES]
    )
    return Result({}, {"prior_samples": figures.grid(samples, figures.COLUMNS)})
