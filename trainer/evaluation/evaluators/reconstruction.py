"""Measures how close the reconstructions of the test images come to the images."""

import numpy as np

from trainer.data.dataset import spread_over_classes
from trainer.evaluation.evaluators import Column, EvaluatedModel, Result
from trainer.monitoring import example_columns, figures
from trainer.run.distances import mean_squared_errors

ORDER = 0
COLUMNS = (Column("mse", "mse", ".5f"),)
FIGURE = "reconstructions"
_SSIM_IMAGES = 1000  # at a time
_SSIM_WINDOW = 11  # pixels, as Wang et al. 2004
_PROBABILITY_MARGIN = 1e-7  # keeps the logarithm of a reconstruction finite


def applies(evaluated: EvaluatedModel) -> bool:
    """Returns True: every kind reconstructs."""
    del evaluated
    return True


def measure(evaluated: EvaluatedModel) -> Result:
    """Measures `reconstruction_metrics`; draws images, codes and reconstructions in rows."""
    total = len(evaluated.test)
    shown = spread_over_classes(evaluated.test_labels, figures.COLUMNS, total)
    images = evaluated.test[shown]
    rows = evaluated.model.reconstruction_rows(images, evaluated.noise(len(shown)))
    errors = mean_squared_errors(rows["reconstruction"] - images)
    notes = [f"mse {error:.2g}" for error in errors]
    metrics = reconstruction_metrics(evaluated.test, evaluated.reconstructions)
    titles = evaluated.titles(shown)
    return Result(metrics, {FIGURE: example_columns.draw(rows, titles, notes)})


def reconstruction_metrics(images: np.ndarray, rebuilt: np.ndarray) -> dict[str, float]:
    """Returns the errors of reconstructions, both float32 [N, H, W, C], pixels in [0, 1].

    `mse` is the mean squared error of all pixels; `psnr_db` the mean over the images of
    10 log10(1 / mse of the image); `ssim` the mean structural similarity (Wang et al. 2004) and
    `bce` the mean binary cross-entropy of a pixel in nats, both with reconstructions cut to [0, 1].
    Vectors [N, D] have no `psnr_db` and no `ssim`, and a `bce` only if all values lie in [0, 1].
    """
    errors = mean_squared_errors(rebuilt - images)
    cut = np.clip(rebuilt, 0, 1)
    metrics = {"mse": float(errors.mean())}
    if images.ndim == 4:
        metrics["psnr_db"] = float(np.mean(-10 * np.log10(np.maximum(errors, 1e-12))))
        metrics["ssim"] = _mean_ssim(images, cut)
    if in_unit_interval(images):
        metrics["bce"] = mean_bce_nats(images, cut)
    return metrics


def in_unit_interval(rows: np.ndarray) -> bool:
    """Returns whether all values lie in [0, 1], as pixels do."""
    return bool(rows.min() >= 0 and rows.max() <= 1)


def mean_bce_nats(images: np.ndarray, rebuilt: np.ndarray) -> float:
    """Returns the mean binary cross-entropy of a pixel of reconstructions cut to [0, 1]."""
    inside = np.clip(rebuilt.astype(np.float64), _PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
    return float(-np.mean(images * np.log(inside) + (1 - images) * np.log1p(-inside)))


def _mean_ssim(images: np.ndarray, rebuilt: np.ndarray) -> float:
    import tensorflow as tf

    window = min(_SSIM_WINDOW, *images.shape[1:3])
    similarities = []
    for first in range(0, len(images), _SSIM_IMAGES):
        some = slice(first, first + _SSIM_IMAGES)
        similarities.append(tf.image.ssim(images[some], rebuilt[some], 1.0, filter_size=window))
    return float(tf.reduce_mean(tf.concat(similarities, axis=0)))
