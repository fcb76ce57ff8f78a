"""Measures a trained run on its test images by every evaluator; writes metrics and figures."""

import contextlib
import importlib.metadata
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.dataset import Split, to_unit
from trainer.data.memory import allowed_bytes
from trainer.distribution.inference import map_batches
from trainer.evaluation import evaluators
from trainer.evaluation.anomaly_options import AnomalyOptions
from trainer.evaluation.evaluators import EvaluatedModel
from trainer.monitoring import figures, progress, projector
from trainer.monitoring.tensorboard import TEST, Summaries
from trainer.run import early_stopping, error_reference, restore
from trainer.run.distances import mean_squared_errors
from trainer.run.workdir import METRICS, code_digest, installed_versions, read_metrics
from trainer.storage import atomic, paths

_MAX_IMAGES = 200_000  # of a split
_MEMORY_SHARE = 1 / 8  # of the allowed memory for a split: several arrays of its size are made
_MAX_INTEGERS = 12  # shown of a list
_NO_ANOMALIES = AnomalyOptions()
_NOT_PRINTED = ("goodput/", "newest_step", "test_fingerprint")  # prefixes of metrics


def evaluate(
    workdir: str,
    checkpoint: str = "",
    data_name: str = "",
    anomalies: AnomalyOptions = _NO_ANOMALIES,
) -> dict[str, Any]:
    """Measures a run's "last" or "best" checkpoint; writes `metrics.json` and figures.

    `data_name` says where the run's data are now, if they have moved, written as data.name.
    `anomalies` names the classes of anomalies, which no training knows, and sets a threshold.
    `pca.npz` and `distances.npz` are kept for the errors that `trainer.encode` writes.
    TensorBoard gets a run `test`: the codes for its projector, the metrics as a table, the figures.

    Returns:
      The content of `metrics.json`: the `step`, the `last_step` of the run, the `newest_step` of
      its checkpoints, whether its training has `finished`, the `code_size`, the number of
      `test_examples` (as many as fit memory), the `test_fingerprint` of the test split, the metrics
      of each module of `evaluators` that applies, and the thresholds of errors and distances, if
      asked for, with their `error_quantile` and the numbers of test examples above them.

    Raises:
      UserError: the workdir holds no run that can be read, or its data have changed.
      StorageError: the workdir cannot be written; earlier files are unchanged.
    """
    anomalies.check()
    path = paths.path_of(workdir)
    restored = restore.load(path, checkpoint, data_name)
    dataset = restored.dataset
    anomalies.check_classes(dataset)
    train, train_labels, _ = read(restored, dataset.train)
    test, test_labels, test_rows = read(restored, dataset.test)
    test_files = dataset.test.file_names
    evaluated = EvaluatedModel(
        restored.model,
        train,
        test,
        train_labels,
        test_labels,
        seed=restored.config.seed,
        workdir=path,
        class_names=dataset.class_names,
        test_files=None if test_files is None else test_files[test_rows],
        test_names=example_names(dataset.test, test_rows),
        data_key=_data_key(restored),
        feature_names=dataset.features.names if dataset.features else (),
        train_anomalies=anomalies.are_anomalous(train_labels, dataset.class_names),
        test_anomalies=anomalies.are_anomalous(test_labels, dataset.class_names),
    )
    last_step = restored.config.last_step(len(dataset.train))
    newest_step = restored.run.newest_step
    metrics: dict[str, Any] = {
        "step": restored.step,
        "last_step": last_step,
        "newest_step": newest_step,
        "finished": _has_finished(restored, newest_step, last_step),
        "code_size": restored.model.code_size,
        "test_examples": len(test),
        "test_fingerprint": dataset.fingerprint(["test"]),
    }
    plots: dict[str, np.ndarray] = {}
    chosen = [evaluator for evaluator in evaluators.load() if evaluator.applies(evaluated)]
    with progress.bar("evaluating", len(chosen), unit="measurements") as bar:
        for evaluator in chosen:
            result = evaluator.measure(evaluated)
            metrics |= result.metrics
            plots |= result.figures
            bar.update()
    metrics |= _thresholds(restored, anomalies.error_quantile, evaluated)

    with atomic.replacing(path) as tmp:
        atomic.write_json(tmp / METRICS, metrics)
        if evaluated.is_undercomplete:
            error_reference.write_pca(tmp, evaluated.pca.mean_, evaluated.pca.components_)
        if evaluated.distances is not None:
            error_reference.write_distances(tmp, evaluated.distances, restored.step)
        for name, figure in plots.items():
            (tmp / f"{name}.png").write_bytes(figures.png(figure))
        _write_summaries(tmp, metrics, plots, evaluated)
    if evaluated.distances is None:  # an earlier evaluation may have named anomalies
        (path / error_reference.DISTANCES).unlink(missing_ok=True)
    return metrics


def _data_key(restored: restore.RestoredRun) -> tuple[object, ...]:
    """Identifies the data, and the code and packages by which they are measured."""
    versions = installed_versions() | {"scipy": importlib.metadata.version("scipy")}
    return restored.run.data_fingerprint, code_digest(), *versions.items()


def example_names(split: Split, rows: np.ndarray) -> np.ndarray:
    """Returns display names of examples, str [N]: file, id, or row in the split from 0.

    A number gets the name of its id column. A file name keeps only the parent folders that make all
    names unique.
    """
    if split.file_names is not None:
        return np.array(_short_names(split.file_names[rows]))
    for column, ids in split.ids.items():
        is_text = ids.dtype.kind == "U"
        return np.array([str(value) if is_text else f"{column} {value}" for value in ids[rows]])
    return np.array([f"row {row}" for row in rows])


def _short_names(files: np.ndarray) -> list[str]:
    """Removes suffixes, and as many parent folders as possible if all names stay unique."""
    parts = [Path(file).with_suffix("").parts for file in files]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return files.tolist()  # only the suffixes differ


def read(
    restored: restore.RestoredRun, split: Split
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Reads the images of a split as float32 in [0, 1], the labels and the rows of the split.

    Reads all images or, evenly spread, as many as fit the memory with the arrays made from them,
    and at most 200,000.
    """
    row_bytes = np.dtype(np.float32).itemsize * math.prod(restored.dataset.image_shape)
    allowed = allowed_bytes(restored.config.data.memory_gib)
    fitting = int(_MEMORY_SHARE * allowed / row_bytes)
    rows = split.evenly_spaced(max(1, min(_MAX_IMAGES, fitting)))
    images, labels = split.read(rows)
    return to_unit(images), labels, np.arange(len(split))[rows]


def _has_finished(restored: restore.RestoredRun, newest_step: int, last_step: int) -> bool:
    """Returns whether the training of a run has ended, whichever checkpoint is evaluated."""
    converged = restored.step == newest_step and restored.model.has_converged()
    losses = early_stopping.validation_losses(restored.run)
    has_stopped = early_stopping.is_exhausted(losses, restored.config.stop)
    return newest_step >= last_step or converged or has_stopped


def print_table(metrics: dict[str, Any], workdir: str) -> None:
    """Prints the metrics, one per line, and the paths of the files.

    Leaves out the goodput, which the training has printed, the newest step and the fingerprint.
    """
    shown = {name: value for name, value in metrics.items() if not name.startswith(_NOT_PRINTED)}
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name:>{width}}  {_format(value)}")
    if not metrics.get("finished", True):
        print(
            f"\nThe run is not finished: this is step {metrics['step']:,} of "
            f"{metrics['last_step']:,}; python -m trainer --workdir={workdir} resumes it."
        )
    for line in evaluators.advice(metrics):
        print(f"\n{line}")
    print(f"\nmetrics    {Path(workdir) / METRICS}\nfigures    {Path(workdir)}/*.png")


def _thresholds(
    restored: restore.RestoredRun, quantile: float, evaluated: EvaluatedModel
) -> dict[str, float]:
    """Returns the thresholds: a quantile of the validation errors and, if fitted, distances.

    Counts the test examples above each. A quantile of 0 means the quantile of the previous
    evaluation; if it had none, returns {}.
    """
    quantile = quantile or (read_metrics(restored.run.workdir) or {}).get("error_quantile", 0.0)
    if not quantile:
        return {}
    images, _, _ = read(restored, restored.dataset.validation)
    codes = map_batches(restored.model.encode, images)
    rebuilt = map_batches(restored.model.decode, codes)
    threshold = float(np.quantile(mean_squared_errors(rebuilt - images), quantile))
    found = {
        "error_quantile": quantile,
        "validation_examples": len(images),
        "error_threshold": threshold,
        "test_errors_above_threshold": int(np.count_nonzero(evaluated.test_errors > threshold)),
    }
    if evaluated.distances is not None and evaluated.test_distances is not None:
        distances = evaluated.distances.of(images - rebuilt, codes)
        threshold = float(np.quantile(distances, quantile))
        above = int(np.count_nonzero(evaluated.test_distances > threshold))
        found |= {"distance_threshold": threshold, "test_distances_above_threshold": above}
    return found


def _write_summaries(
    folder: Path,
    metrics: dict[str, Any],
    plots: Mapping[str, np.ndarray],
    evaluated: EvaluatedModel,
) -> None:
    """Writes TensorBoard's run "test": codes for the projector, metrics as a table, figures."""
    images = evaluated.test
    columns = {
        "label": evaluated.test_class_names,
        "file": evaluated.test_files,
        "mse": evaluated.test_errors,
        "distance": evaluated.test_distances,
    }
    if evaluated.is_undercomplete:
        columns["pca_mse"] = evaluated.pca_errors
    given = {name: column for name, column in columns.items() if column is not None}
    projector.write(folder / TEST, evaluated.codes, images, given)
    rows = [f"| {name} | {_format(value)} |" for name, value in metrics.items()]
    table = "\n".join(["| metric | value |", "|---|---|", *rows])
    with contextlib.closing(Summaries(folder, [TEST])) as summaries:
        summaries.text(TEST, metrics["step"], "metrics", table)
        for name, figure in plots.items():
            summaries.image(TEST, metrics["step"], name, figure)


def _format(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(number, int) for number in value):
        shown = ", ".join(map(str, value[:_MAX_INTEGERS]))
        return shown if len(value) <= _MAX_INTEGERS else f"{shown}, ... ({len(value)} in all)"
    if isinstance(value, list):
        return f"{min(value):.5f} to {max(value):.5f} ({len(value)} in all)"
    return f"{value:.5f}" if isinstance(value, float) else str(value)
