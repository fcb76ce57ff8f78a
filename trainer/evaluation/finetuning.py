"""Fine-tunes the encoder of a run, with a softmax layer on its code, to classify images.

`linear` trains the softmax layer alone.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import positions
from trainer.config import EXECUTIONS, Optimizer
from trainer.data.batches import training_batches
from trainer.data.dataset import Records, Split
from trainer.data.memory import aligned_empty, allowed_bytes, require_fits
from trainer.data.pca import TrainingStatistics
from trainer.distribution import optimizers
from trainer.distribution.devices import describe_devices
from trainer.distribution.inference import map_batches
from trainer.distribution.step import Steps, StepSettings
from trainer.distribution.strategy import build_autoencoder, build_model, enable_determinism
from trainer.distribution.variables import assign_values, model_variables, values_of
from trainer.distribution.xla import candidate_executions
from trainer.errors import require
from trainer.evaluation.classifier import Classifier, SoftmaxLayer, cross_entropy_nats
from trainer.evaluation.evaluate import read
from trainer.evaluation.evaluators.probe import probe_accuracy
from trainer.evaluation.finetuning_options import FineTuning, changed, settings_of
from trainer.models.base import Autoencoder
from trainer.monitoring import progress
from trainer.run import checkpoints, restore
from trainer.storage import atomic, paths

_LABELS_SEED = 0  # the same for every run, so that all learn from the same labels
_MAX_STEPS_PER_CALL = 100
_MAX_BYTES_PER_CALL = 64 * 2**20  # of images
_Labelled = tuple[np.ndarray, np.ndarray]  # images [N, H, W, C] and labels [N]


class BestEpoch:
    """Keeps the weights of the epoch of lowest validation error, or then cross-entropy.

    The patience, unless it is 0, begins after the frozen epochs.
    """

    def __init__(self, patience_epochs: int, freeze_epochs: int = 0):
        self._patience_epochs = patience_epochs
        self._freeze_epochs = freeze_epochs
        self.epoch = 0  # the best, counted from 1
        self.error = self.cross_entropy = math.inf
        self.weights: dict[str, np.ndarray] = {}

    def update(self, epoch: int, error: float, cross_entropy: float, classifier: Any) -> bool:
        """Adds the validation of an epoch; returns whether to stop."""
        if (error, cross_entropy) < (self.error, self.cross_entropy):
            self.epoch, self.error, self.cross_entropy = epoch, error, cross_entropy
            self.keep(classifier)
        return 0 < self._patience_epochs <= epoch - max(self.epoch, self._freeze_epochs)

    def keep(self, classifier: Any) -> None:
        """Copies the weights."""
        self.weights = values_of(model_variables(classifier))


def finetune(
    workdir: str, settings: FineTuning, checkpoint: str = "", data_name: str = ""
) -> dict[str, Any]:
    """Trains a classifier from a run's "last" or "best" checkpoint, and measures it.

    `data_name` says where the run's data are now, if they have moved, written as data.name.
    The classifier learns by Adam from the run's training images. `BestEpoch` chooses the
    weights by the validation images; a refit learns from these too, and keeps the last weights.
    With an average of the weights, it is validated and kept in their place.

    Writes `finetuned.json` and the weights, by their paths, to `finetuned.npz`, or other names as
    `FineTuning.name` says.

    Returns:
      The content of the JSON file: the settings; `finetuned_test_error`, named as the file, the
      share of the test images that are classified wrong; `frozen_test_error`, the test error of
      logistic regression on the codes before fine-tuning; the `step` of the checkpoint, the
      `newest_step` of the run's checkpoints, the number of `labelled_examples`, the
      `weights_sha256`, and what `_train` returns.

    Raises:
      UserError: a setting is not possible, the data have no labels, or what `restore.load` raises.
      NonFiniteError: a loss was not finite; nothing is written.
      StorageError: the workdir cannot be written; earlier files are unchanged.
    """
    # 1. Load the run and its labelled images.
    settings.check()
    path = paths.path_of(workdir)
    restored = restore.load(path, checkpoint, data_name)
    if restored.config.deterministic:
        enable_determinism()
    classes = _count_classes(restored)
    train = labelled(restored.dataset.train, settings.labels)
    if settings.refit:
        train = concatenated(train, restored.dataset.validation, restored.config.data.memory_gib)
    require(
        settings.batch_size <= len(train),
        f"batch_size={settings.batch_size} is not allowed; {len(train)} labelled images allow 1 "
        f"to {len(train)}",
    )

    # 2. Measure the codes before training; then train a classifier from them.
    autoencoder = initial_model(restored) if settings.from_scratch else restored.model
    keras.utils.set_random_seed(restored.config.seed)
    classifier = build_model(
        restored.strategy,
        restored.config.precision,
        lambda: Classifier(autoencoder, classes, settings),
    )
    test = _read(restored, restored.dataset.test)
    frozen_test_error = _frozen_error(autoencoder, _read(restored, train), test)
    trained = _train(restored, classifier, train, settings)

    # 3. Measure the classifier on the test images.
    test_error, _ = _measure(classifier, *test)
    metrics = {
        "step": 0 if settings.from_scratch else restored.step,
        "newest_step": restored.run.newest_step,
        f"{settings.name}_test_error": test_error,
        "frozen_test_error": frozen_test_error,
        **trained,
        "labelled_examples": len(train),
        **dataclasses.asdict(settings),
    }
    with atomic.replacing(path) as tmp:
        weights = values_of(model_variables(classifier))
        digest = checkpoints.write_arrays(tmp / f"{settings.name}.npz", weights)
        metrics["weights_sha256"] = digest
        atomic.write_json(tmp / f"{settings.name}.json", metrics)
    return metrics


def print_table(metrics: dict[str, Any], workdir: str) -> None:
    """Prints the errors and the paths of the files."""
    name = settings_of(metrics).name
    label = f"{name.replace('_', ' ')} test error"
    validation = "none, since the validation images were learnt too"
    if not metrics["refit"]:
        validation = (
            f"{metrics['validation_error']:.2%}, after epoch {metrics['best_epoch']}, of "
            f"{metrics['validation_labels']:,} labels"
        )
    frozen = (
        f"{metrics['frozen_test_error']:.2%}, logistic regression on the codes before fine-tuning"
    )
    given = " ".join(f"--{flag}={value}" for flag, value in changed(metrics).items())
    print(f"""
{label:>23}  {metrics[f"{name}_test_error"]:.2%}
{"frozen test error":>23}  {frozen}
{"validation error":>23}  {validation}
{"labelled examples":>23}  {metrics["labelled_examples"]:,}
{"settings":>23}  {given or "the defaults"}

metrics    {Path(workdir) / name}.json
weights    {Path(workdir) / name}.npz""")
    if metrics[f"{name}_test_error"] > metrics["frozen_test_error"]:
        print(
            f"the {label} is above the frozen one; another --learning_rate, more epochs or "
            "dropout may lower it"
        )


def labelled(split: Split, count: int) -> Split:
    """Returns `count` random images of a split, or all (0), with the labels in memory.

    A larger count includes the images of a smaller one.

    Raises:
      UserError: there are fewer images, or all chosen images are of one class.
    """
    assert split.labels is not None
    require(
        count <= len(split),
        f"labels={count} is not allowed; there are {len(split)} training images",
    )
    images, labels = split.images, split.labels[:]
    if count:
        chosen = positions.permutation(_LABELS_SEED, 0, len(split))[:count]
        images, labels = images[chosen], labels[chosen]
    require(
        len(np.unique(labels)) > 1,
        f"the {len(labels)} labelled images are of one class; a classifier needs two",
    )
    return Split(images, labels)


def concatenated(train: Split, validation: Split, memory_gib: float) -> Split:
    """Returns the examples of one split and then those of another, with the labels in memory.

    Rows of files stay there.

    Raises:
      UserError: the images in memory take more than `data.memory_gib` allows.
    """
    assert train.labels is not None and validation.labels is not None
    labels = np.concatenate([train.labels[:], validation.labels[:]])
    parts = (train.images, validation.images)
    arrays = [rows for rows in parts if isinstance(rows, np.ndarray)]
    if len(arrays) < len(parts):
        return Split(Records(functools.partial(_read_rows, parts), np.arange(len(labels))), labels)
    size = sum(rows.nbytes for rows in arrays)
    require_fits("a copy of the training and validation images", size, allowed_bytes(memory_gib))
    images = aligned_empty((len(labels), *train.images.shape[1:]), train.images.dtype)
    return Split(np.concatenate(arrays, out=images), labels)


def _read_rows(images: Sequence[np.ndarray | Records], rows: np.ndarray) -> np.ndarray:
    """Reads rows [n] of images that follow one another."""
    read = np.empty((len(rows), *images[0].shape[1:]), images[0].dtype)
    first = 0
    for some in images:
        here = (first <= rows) & (rows < first + len(some))
        if here.any():  # Records cannot read zero rows
            read[here] = some[rows[here] - first]
        first += len(some)
    return read


def initial_model(restored: restore.RestoredRun) -> Autoencoder:
    """Builds the autoencoder of a run with its initial weights."""
    keras.utils.set_random_seed(restored.config.seed)
    model = build_autoencoder(
        restored.strategy,
        restored.config.precision,
        restored.dataset.image_shape,
        restored.config.model,
    )
    model.initialise(TrainingStatistics(restored.dataset.train.images))
    return model


def _count_classes(restored: restore.RestoredRun) -> int:
    """Returns one more than the largest label."""
    splits = (restored.dataset.train, restored.dataset.validation, restored.dataset.test)
    labels = [split.labels[:] for split in splits if split.labels is not None]
    name = restored.config.data.name
    require(
        len(labels) == len(splits) and min(some.min() for some in labels) >= 0,
        f"data.name={name!r} has no labels from 0 up to learn from; an .npz file "
        "needs train_labels, and test_labels where it has test; a folder of images, class folders; "
        "a table, data.label_column",
    )
    largest = int(max(some.max() for some in labels))
    count = sum(len(some) for some in labels)
    require(
        largest < count,
        f"the labels of data.name={name!r} reach up to {largest}, of {count} "
        "images; they must be the classes' numbers, counted from 0",
    )
    return 1 + largest


def _execution(restored: restore.RestoredRun, batch_size: int) -> str:
    """Returns the execution that the run uses, or would use, for its own steps on these devices."""
    chosen = restored.run.executions.get(describe_devices(restored.strategy))
    if chosen is None and restored.config.execution in EXECUTIONS:
        chosen = restored.config.execution
    return chosen or candidate_executions(restored.strategy, restored.model, batch_size)[0]


def _train(
    restored: restore.RestoredRun, classifier: Classifier, train: Split, settings: FineTuning
) -> dict[str, Any]:
    """Trains a classifier and leaves it at the best epoch's weights, or a refit at the last.

    Returns what was measured: `epochs`, `training_seconds` and, unless the validation images were
    learnt too, `validation_error`, `best_epoch` and the number of `validation_labels`.
    """
    best = BestEpoch(settings.patience_epochs, settings.freeze_epochs)
    validation = None if settings.refit else _read(restored, restored.dataset.validation)
    began = time.monotonic()
    # Closing the steps gives the classifier its own weights, so it precedes the assignment below.
    with contextlib.closing(_losses(restored, classifier, train, settings)) as losses:
        for epoch, loss in enumerate(losses, start=1):
            line = f"epoch {epoch} of {settings.num_epochs}  cross-entropy {loss:.5f}"
            if validation is None:
                progress.say(line)
                if epoch == settings.num_epochs:
                    best.keep(classifier)
                continue
            error, cross_entropy = _measure(classifier, *validation)
            progress.say(f"{line}  validation {cross_entropy:.5f}, error {error:.2%}")
            if best.update(epoch, error, cross_entropy, classifier):
                break
    assign_values(model_variables(classifier), best.weights)
    trained = {"epochs": epoch, "training_seconds": time.monotonic() - began}
    if validation is None:
        return trained
    chosen = {"validation_error": best.error, "best_epoch": best.epoch}
    return {**chosen, "validation_labels": len(validation[1]), **trained}


def _losses(
    restored: restore.RestoredRun, classifier: Classifier, train: Split, settings: FineTuning
) -> Generator[float]:
    """Trains a classifier; yields the mean loss of the steps that end in each epoch.

    Meanwhile the classifier has the averaged weights, if there is an average. Positions and
    learning rate continue from the end of the frozen epochs; the average begins there.
    """
    batch_size, config = settings.batch_size, restored.config
    precision, seed = config.precision, config.seed
    epochs = range(settings.num_epochs + 1)
    ends = [math.ceil(epoch * len(train) / batch_size) for epoch in epochs]
    schedule = optimizers.learning_rate_schedule(
        settings.schedule,
        learning_rate=settings.learning_rate,
        warmup_steps=0,
        last_step=ends[-1],
    )
    name = "adamw" if settings.weight_decay else "adam"
    optimizer = Optimizer(name=name, weight_decay=settings.weight_decay)
    thawed = settings.freeze_epochs
    frozen = StepSettings(precision, batch_size, seed, last_step=ends[thawed])
    tuned = dataclasses.replace(
        frozen, first_step=ends[thawed], last_step=ends[-1], averaging=settings.averaging
    )
    steps = Steps(
        restored.strategy,
        SoftmaxLayer(classifier) if thawed or settings.linear else classifier,
        lambda: optimizers.create(optimizer),
        schedule,
        frozen if thawed else tuned,
        execution=_execution(restored, batch_size),
    )
    if isinstance(train.images, np.ndarray) and restored.config.data.placement != "host":
        steps.cache_on_device(train.images)
    with progress.bar("fine-tuning", ends[-1], unit="steps") as bar:
        if thawed:
            yield from _losses_between(steps, train, ends[: thawed + 1], batch_size, seed, bar)
            steps.begin(classifier, schedule, tuned)
        yield from _losses_between(steps, train, ends[thawed:], batch_size, seed, bar)


def _losses_between(
    steps: Steps, train: Split, ends: Sequence[int], batch_size: int, seed: int, bar: Any
) -> Iterator[float]:
    """Trains from each step of `ends` to the next; yields the mean loss of these steps."""
    images, labels = train.images, train.labels
    assert labels is not None
    batch_bytes = batch_size * math.prod(images.shape[1:]) * images.dtype.itemsize
    max_steps = max(1, min(_MAX_STEPS_PER_CALL, _MAX_BYTES_PER_CALL // batch_bytes))
    ranges = (
        (first, min(first + max_steps, end))
        for start, end in itertools.pairwise(ends)
        for first in range(start, end, max_steps)
    )
    calls = training_batches(images, ranges, max_steps, batch_size, seed, as_indices=True)
    losses: list[np.ndarray] = []
    for first, count, indices in calls.as_numpy_iterator():
        batches = indices
        if not steps.images_on_device:
            batches = np.zeros((*indices.shape, *images.shape[1:]), images.dtype)
            batches[:count] = images[indices[:count]]
        metrics = steps.train(first, batches, count, labels[indices])
        steps.require_finite(first, metrics)
        losses.append(metrics["loss"])
        bar.update(int(count))
        if first + count in ends:
            with steps.average.in_use():
                yield float(np.concatenate(losses).mean())
            losses = []


def _read(restored: restore.RestoredRun, split: Split) -> _Labelled:
    images, labels, _ = read(restored, split)
    assert labels is not None
    return images, labels


def _frozen_error(autoencoder: Autoencoder, train: _Labelled, test: _Labelled) -> float:
    codes, test_codes = (map_batches(autoencoder.encode, images) for images, _ in (train, test))
    return 1 - probe_accuracy(codes, test_codes, train[1], test[1])


def _measure(classifier: Classifier, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the error, a share of the images, and the mean cross-entropy in nats."""
    logits = map_batches(classifier, images)
    error = np.mean(logits.argmax(axis=1) != labels)
    return float(error), float(tf.reduce_mean(cross_entropy_nats(logits, labels)))
