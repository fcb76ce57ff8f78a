"""Measures a trained run on its test images, beside PCA with a code of the same size."""

import contextlib
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainer.data.dataset import Split, to_unit
from trainer.data.memory import allowed_bytes
from trainer.distribution.inference import map_batches
from trainer.models.base import Measured, in_unit_interval, mean_bce_nats
from trainer.monitoring import figures, goodput, projector
from trainer.monitoring.tensorboard import TEST, Summaries
from trainer.positions import Noise
from trainer.run import restore, workdir
from trainer.storage import atomic, paths

PICTURE = "reconstructions.png"
_MOST_IMAGES = 200_000  # of a part, that are measured, or that PCA and the probes learn from
_MEMORY_SHARE = 1 / 8  # of what images may fill: several arrays of their size are made
_MOST_EXACT_PCA = 4096  # numbers in an image, whose covariance is decomposed in seconds
_SSIM_IMAGES = 1000  # at a time
_NEIGHBOURS = 5
_PROBE_TOLERANCE = 2e-4  # of the gradient; with less, large codes take minutes for nothing
_SSIM_WINDOW = 11  # pixels, as Wang et al. 2004
_INTEGERS_SHOWN = 12  # of a list of them


def evaluate(folder: str, which: str = "last") -> dict[str, Any]:
    """Measures a run's "last" or "best" checkpoint; writes `metrics.json` and pictures.

    TensorBoard gets a run `test`: the codes for its projector, and the metrics as a table.
    Returns what `metrics.json` holds: the `step`, the `code_size`, how many `test_images` there
    were, all unless they are too many for memory; `reconstruction_metrics`; where the code is
    smaller than the image, `pca_mse`, that of PCA with as many numbers fitted on the same training
    images, and `mse_to_pca`, the ratio of the two unless PCA is perfect; where there are labels to
    tell apart, `code_metrics`, and `pca_probe_accuracy`, that of PCA's numbers; what the kind is
    asked itself; and `goodput.metrics`.

    Raises:
      UserError: the workdir holds no run that can be read, or its data are not what they were.
      StorageError: it cannot be written; what was measured before is still there.
    """
    path = paths.path_of(folder)
    run = restore.load(path, which)
    model, dataset, seed = run.model, run.dataset, run.config.seed

    train, train_labels = read(run, dataset.train)
    test, test_labels = read(run, dataset.test)
    codes = map_batches(model.encode, test)
    rebuilt = map_batches(model.decode, codes)
    pca, pca_mse = _pca(train, test, model.code_size)
    metrics: dict[str, Any] = {
        "step": run.step,
        "code_size": model.code_size,
        "test_images": len(test),
    }
    metrics |= reconstruction_metrics(test, rebuilt)
    if model.code_size < train[0].size:
        metrics["pca_mse"] = pca_mse
        if pca_mse > 0:  # a few numbers can tell all of others that follow from them
            metrics["mse_to_pca"] = metrics["mse"] / pca_mse
    train_codes = None
    if train_labels is not None and test_labels is not None and np.ptp(train_labels) > 0:
        train_codes = map_batches(model.encode, train)
        metrics |= code_metrics(train_codes, train_labels, codes, test_labels)
        if model.code_size < train[0].size:
            train_pca, test_pca = (
                pca.transform(images.reshape(len(images), -1)) for images in (train, test)
            )
            metrics["pca_probe_accuracy"] = probe_accuracy(
                train_pca, train_labels, test_pca, test_labels
            )
    noisy = functools.partial(map_batches, noise_seed=seed)
    measured = Measured(
        train, test, codes, pca, map_batches, noisy, train_labels, test_labels, train_codes
    )
    metrics |= model.own_metrics(measured)
    metrics |= goodput.metrics(path)

    shown = test[: figures.COLUMNS]
    noise = Noise(seed, 0, len(shown), stream="evaluation")
    rows, own = model.rows(shown, noise), model.own_pictures(measured, metrics)
    with atomic.replacing(path) as aside:
        atomic.write_json(aside / workdir.METRICS, metrics)
        (aside / PICTURE).write_bytes(figures.png(figures.reconstructions(rows)))
        for name, picture in own.items():
            (aside / f"{name}.png").write_bytes(figures.png(picture))
        _show_in_tensorboard(aside, metrics, codes, test, rebuilt, test_labels)
    return metrics


def read(run: restore.TrainedRun, part: Split) -> tuple[np.ndarray, np.ndarray | None]:
    """Images as float32 in [0, 1], and labels: all of them, or as many as are to be measured.

    So many, evenly spread, as fit the memory beside what is made of them; 200,000 at most.
    """
    row_bytes = np.dtype(np.float32).itemsize * math.prod(run.dataset.image_shape)
    allowed = allowed_bytes(run.config.data.memory_gib)
    fitting = int(_MEMORY_SHARE * allowed / row_bytes)
    images, labels = part.read(max(1, min(_MOST_IMAGES, fitting)))
    return to_unit(images), labels


def reconstruction_metrics(images: np.ndarray, rebuilt: np.ndarray) -> dict[str, float]:
    """How near reconstructions come to images, both float32 [N, H, W, C], pixels in [0, 1].

    `mse` is the mean squared error of all pixels; `psnr_db` the mean over the images of
    10 log10(1 / its mse); `ssim` the mean structural similarity (Wang et al. 2004) and `bce` the
    mean binary cross-entropy of a pixel in nats, these two of the reconstruction cut to [0, 1].
    Vectors [N, D] have no `psnr_db` and no `ssim`, and a `bce` only where all lie in [0, 1].
    """
    squared = np.square(rebuilt - images, dtype=np.float64).mean(axis=tuple(range(1, images.ndim)))
    cut = np.clip(rebuilt, 0, 1)
    metrics = {"mse": float(squared.mean())}
    if images.ndim == 4:
        window = min(_SSIM_WINDOW, *images.shape[1:3])
        similarities = []
        for first in range(0, len(images), _SSIM_IMAGES):
            some = slice(first, first + _SSIM_IMAGES)
            similarities.append(tf.image.ssim(images[some], cut[some], 1.0, filter_size=window))
        metrics["psnr_db"] = float(np.mean(-10 * np.log10(np.maximum(squared, 1e-12))))
        metrics["ssim"] = float(tf.reduce_mean(tf.concat(similarities, axis=0)))
    if in_unit_interval(images):
        metrics["bce"] = mean_bce_nats(images, cut)
    return metrics


def code_metrics(
    train_codes: np.ndarray,
    train_labels: np.ndarray,
    test_codes: np.ndarray,
    test_labels: np.ndarray,
) -> dict[str, float]:
    """The share of test images whose label is told from their codes [N, K], frozen as they are.

    `probe_accuracy`: by logistic regression, as the function says; `knn_accuracy`: by the 5
    nearest training codes. Both learn from the training images alone.
    """
    neighbours = KNeighborsClassifier(min(_NEIGHBOURS, len(train_codes)), n_jobs=-1)
    neighbours.fit(train_codes, train_labels)
    return {
        "probe_accuracy": probe_accuracy(train_codes, train_labels, test_codes, test_labels),
        "knn_accuracy": float(neighbours.score(test_codes, test_labels)),
    }


def probe_accuracy(
    train_codes: np.ndarray,
    train_labels: np.ndarray,
    test_codes: np.ndarray,
    test_labels: np.ndarray,
) -> float:
    """The share of test codes [N, K] that logistic regression on standardised codes tells right."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=_PROBE_TOLERANCE))
    return float(probe.fit(train_codes, train_labels).score(test_codes, test_labels))


def print_table(metrics: dict[str, Any], folder: str) -> None:
    """Prints the metrics, one a line, but for the goodput's shares, and where the files are."""
    for name, value in metrics.items():
        if not name.startswith("goodput/"):  # which the training has printed
            print(f"{name:>22}  {_words(value)}")
    print(f"\nmetrics    {Path(folder) / workdir.METRICS}\npictures   {Path(folder)}/*.png")


def _show_in_tensorboard(
    path: Path,
    metrics: dict[str, Any],
    codes: np.ndarray,
    images: np.ndarray,
    rebuilt: np.ndarray,
    labels: np.ndarray | None,
) -> None:
    """Writes the run "test": the codes for the projector, and the metrics as a table."""
    errors = np.square(rebuilt - images).mean(axis=tuple(range(1, images.ndim)))
    projector.write(path / TEST, codes, images, errors, labels)
    rows = [f"| {name} | {_words(value)} |" for name, value in metrics.items()]
    table = "\n".join(["| metric | value |", "|---|---|", *rows])
    with contextlib.closing(Summaries(path, [TEST])) as summaries:
        summaries.text(TEST, metrics["step"], "metrics", table)


def _words(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(number, int) for number in value):
        shown = ", ".join(map(str, value[:_INTEGERS_SHOWN]))
        return shown if len(value) <= _INTEGERS_SHOWN else f"{shown}, ... ({len(value)} in all)"
    if isinstance(value, list):
        return f"{min(value):.5f} to {max(value):.5f} ({len(value)} in all)"
    return f"{value:.5f}" if isinstance(value, float) else str(value)


def _pca(train: np.ndarray, test: np.ndarray, code_size: int) -> tuple[PCA, float]:
    """PCA with `code_size` components of the training images, and its mse on the test images."""
    flat_train, flat_test = (images.reshape(len(images), -1) for images in (train, test))
    components = min(code_size, *flat_train.shape)
    exact = flat_train.shape[1] <= _MOST_EXACT_PCA
    solver = "covariance_eigh" if exact else "randomized"
    pca = PCA(components, svd_solver=solver, random_state=0).fit(flat_train)
    projected = pca.inverse_transform(pca.transform(flat_test))
    return pca, float(np.square(projected - flat_test, dtype=np.float64).mean())
