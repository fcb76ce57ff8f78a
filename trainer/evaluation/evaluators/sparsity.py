"""How sparse the codes of the test images are."""

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result
from trainer.monitoring import figures

ORDER = 70
_BINS = 50


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the model says above which |activation| a unit is active."""
    return hasattr(evaluated.model, "active_above")


def measure(evaluated: EvaluatedModel) -> Result:
    """Counts the active units of the test codes; draws the histogram, and the first filters.

    A unit is active where its |activation| is above `active_above`. `active_units_mean` is the mean
    number of active units of an image; `dead_units_share` the share of the units that are active in
    no test image; `mean_activations` counts the units whose mean |activation| over the images lies
    between each two of `mean_activation_edges`.
    """
    active_above = evaluated.model.active_above
    sizes = np.abs(evaluated.codes)
    active = sizes > active_above
    counts, edges = (array.tolist() for array in np.histogram(sizes.mean(axis=0), bins=_BINS))
    metrics = {
        "active_above": active_above,
        "active_units_mean": float(active.sum(axis=1).mean()),
        "dead_units_share": float(1 - active.any(axis=0).mean()),
        "mean_activations": counts,
        "mean_activation_edges": edges,
    }
    axes = "mean activation over the test images", "units"
    drawn = {"activations": figures.bars(edges, counts, *axes)}
    filters = evaluated.model.filters()
    if filters is not None:
        drawn["filters"] = figures.grid(**vars(filters))
    return Result(metrics, drawn)
