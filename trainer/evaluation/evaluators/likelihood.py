"""Measures the likelihood of the test images, and its variational bound."""

from typing import Any

import numpy as np

from trainer.evaluation.evaluators import EvaluatedModel, Result

ORDER = 90
_ACTIVE_VARIANCE = 0.01  # Burda et al. 2016


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns whether the model estimates -log p(x)."""
    return hasattr(evaluated.model, "nll_nats")


def measure(evaluated: EvaluatedModel) -> Result:
    """Measures the bound and the likelihood, in nats per image.

    `elbo_nats` is -`reconstruction_nats` - `kl_nats`, whatever the objective and beta; `nll_nats`
    is -log p(x) by `nll_samples` importance samples. `binarisation` says how the images are
    binarised. `active_units` counts the units of the code whose posterior mean has a variance above
    0.01 over the images. If the model is not a distribution of the images, there is no likelihood,
    and `grey_cross_entropy_nats` replaces the reconstruction.
    """
    import tensorflow as tf

    model = evaluated.model

    def terms_and_mean(images, noise):
        reconstruction, kl, mean = model.elbo_terms(images, noise)
        return tf.concat([tf.stack([reconstruction, kl], axis=1), mean], axis=1)  # [B, 2 + K]

    rows = evaluated.map(terms_and_mean, evaluated.test, with_noise=True)
    reconstruction, kl = rows[:, :2].mean(axis=0, dtype=np.float64).tolist()
    active = rows[:, 2:].var(axis=0) > _ACTIVE_VARIANCE
    metrics: dict[str, Any] = {"binarisation": model.binarisation}
    metrics |= {"active_units": int(active.sum()), "kl_nats": kl}
    if not model.has_likelihood:
        return Result(metrics | {"grey_cross_entropy_nats": reconstruction})
    nll = evaluated.map(model.nll_nats, evaluated.test, with_noise=True)
    metrics |= {"reconstruction_nats": reconstruction, "elbo_nats": -reconstruction - kl}
    metrics |= {"nll_nats": float(nll.mean(dtype=np.float64)), "nll_samples": model.nll_samples}
    return Result(metrics)
