"""Fine-tunes the encoder of a run, with a softmax layer on its code, to classify images."""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import models, positions
from trainer.config import EXECUTIONS
from trainer.data.batches import training_batches
from trainer.data.dataset import Split
from trainer.distribution import optimizers
from trainer.distribution.devices import describe_devices
from trainer.distribution.inference import map_batches
from trainer.distribution.step import Steps, StepSettings
from trainer.distribution.strategy import build_model, enable_determinism
from trainer.distribution.variables import model_variables
from trainer.distribution.xla import candidate_executions
from trainer.errors import require
from trainer.evaluation.evaluate import read
from trainer.evaluation.evaluators.probe import probe_accuracy
from trainer.models.base import Autoencoder, StepContext
from trainer.monitoring import progress
from trainer.run import checkpoints, restore
from trainer.storage import atomic, paths

FINETUNED = "finetuned"  # a file name without suffix
FROM_SCRATCH = "from_scratch"  # a file name without suffix
_LABELS_SEED = 0  # the same for every run, so that all learn from the same labels
_MAX_STEPS_PER_CALL = 100
_MAX_BYTES_PER_CALL = 64 * 2**20  # of images
_Labelled = tuple[np.ndarray, np.ndarray]  # images [N, H, W, C] and labels [N]


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """Holds the settings of a fine-tuning."""

    num_epochs: int  # most passes over the labelled images
    batch_size: int  # images per step, over all replicas
    learning_rate: float  # the highest of the schedule, for Adam
    schedule: str  # constant, or cosine down to 0 at the end of num_epochs
    patience_epochs: int  # epochs without a better validation error after which to end
    labels: int = 0  # number of labelled images to learn from, chosen at random; 0: all
    from_scratch: bool = False  # begin with the weights that the run began with

    @property
    def name(self) -> str:
        """Returns the name of the files, without suffix."""
        return FROM_SCRATCH if self.from_scratch else FINETUNED


class Classifier(keras.Model):
    """Computes logits W code + b of an autoencoder's code; trains the encoder with W and b.

    Vincent et al. 2010 and Rifai et al. 2011 measure encoders in this way.
    """

    def __init__(self, autoencoder: Autoencoder, classes: int):
        super().__init__()
        self.encoder = autoencoder.encoder
        self._encode = autoencoder.encode  # may do more than the encoder
        self.softmax = keras.layers.Dense(classes, name="softmax", dtype="float32")
        self.softmax.build((None, autoencoder.code_size))
        self.built = True

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the logits of images [B, H, W, C], float32 [B, classes]."""
        return self.softmax(self._encode(images))

    def loss_terms(self, images: tf.Tensor, context: StepContext) -> dict[str, tf.Tensor]:
        """Returns the `cross_entropy` of the labels in nats, float32 [B]."""
        return {"cross_entropy": _cross_entropy_nats(self(images), context.labels)}

    def statistics(self, images: tf.Tensor) -> None:
        """Returns None: no loss term needs means over the batch."""
        del images


class EarlyStopping:
    """Keeps the weights of the epoch of lowest validation error, or then cross-entropy."""

    def __init__(self, patience_epochs: int):
        self._patience_epochs = patience_epochs
        self.epoch = 0  # the best, counted from 1
        self.error = self.cross_entropy = math.inf
        self.weights: dict[str, np.ndarray] = {}

    def update(self, epoch: int, error: float, cross_entropy: float, classifier: Any) -> bool:
        """Adds the validation of an epoch; returns whether to stop."""
        if (error, cross_entropy) < (self.error, self.cross_entropy):
            self.epoch, self.error, self.cross_entropy = epoch, error, cross_entropy
            variables = model_variables(classifier)
            self.weights = {path: variable.numpy() for path, variable in variables.items()}
        return epoch - self.epoch >= self._patience_epochs


def finetune(
    workdir: str, settings: FineTuning, checkpoint: str = "", data_name: str = ""
) -> dict[str, Any]:
    """Trains a classifier from a run's "last" or "best" checkpoint, and measures it.

    `data_name` says where the run's data are now, if they have moved, written as data.name.
    The classifier learns by Adam from the run's training images. `EarlyStopping` chooses the
    weights, without the test images.

    Writes `finetuned.json` and the weights, by their paths, to `finetuned.npz`; from scratch
    `from_scratch.json` and `from_scratch.npz`.

    Returns:
      The content of the JSON file: the settings, `finetuned_test_error` or
      `from_scratch_test_error`, the share of the test images that are classified wrong, and
      `frozen_test_error`, the test error of logistic regression on the codes before fine-tuning.

    Raises:
      UserError: a setting is not possible, the data have no labels, or what `restore.load` raises.
      NonFiniteError: a loss was not finite; nothing is written.
      StorageError: the workdir cannot be written; earlier files are unchanged.
    """
    # 1. Load the run and its labelled images.
    path = paths.path_of(workdir)
    run = restore.load(path, checkpoint, data_name)
    if run.config.deterministic:
        enable_determinism()
    classes = _count_classes(run)
    train = labelled(run.dataset.train, settings.labels)
    require(
        1 <= settings.batch_size <= len(train),
        f"batch_size={settings.batch_size} is not allowed; {len(train)} labelled images allow 1 "
        f"to {len(train)}",
    )
    autoencoder = initial_model(run) if settings.from_scratch else run.model

    # 2. Build the classifier and its steps.
    keras.utils.set_random_seed(run.config.seed)
    classifier = build_model(
        run.strategy, run.config.precision, lambda: Classifier(autoencoder, classes)
    )
    epochs = range(settings.num_epochs + 1)
    ends = [math.ceil(epoch * len(train) / settings.batch_size) for epoch in epochs]
    batch_size, last_step = settings.batch_size, ends[-1]
    steps = Steps(
        run.strategy,
        classifier,
        lambda: optimizers.create("adam", clip_norm=0.0, weight_decay=0.0),
        optimizers.learning_rate_schedule(
            settings.schedule,
            learning_rate=settings.learning_rate,
            warmup_steps=0,
            last_step=last_step,
        ),
        StepSettings(run.config.precision, batch_size, run.config.seed, last_step),
        execution=_execution(run, batch_size),
    )
    if isinstance(train.images, np.ndarray) and run.config.data.placement != "host":
        steps.cache_on_device(train.images)

    # 3. Measure the codes before training; then train the epochs.
    validation, test = (_read(run, split) for split in (run.dataset.validation, run.dataset.test))
    frozen_test_error = _frozen_error(autoencoder, _read(run, train), test)
    began = time.monotonic()
    best = EarlyStopping(settings.patience_epochs)
    for epoch, loss in enumerate(_losses(steps, train, ends, settings, run.config.seed), start=1):
        error, cross_entropy = _measure(classifier, *validation)
        progress.say(
            f"epoch {epoch} of {settings.num_epochs}  cross-entropy {loss:.5f}  "
            f"validation {cross_entropy:.5f}, error {error:.2%}"
        )
        if best.update(epoch, error, cross_entropy, classifier):
            break
    seconds = time.monotonic() - began

    # 4. Measure the best epoch on the test images.
    for variable_path, variable in model_variables(classifier).items():
        variable.assign(best.weights[variable_path])
    test_error, _ = _measure(classifier, *test)
    metrics = {
        "step": 0 if settings.from_scratch else run.step,
        f"{settings.name}_test_error": test_error,
        "frozen_test_error": frozen_test_error,
        "validation_error": best.error,
        "best_epoch": best.epoch,
        "epochs": epoch,
        "labelled_images": len(train),
        "training_seconds": seconds,
        **dataclasses.asdict(settings),
    }
    with atomic.replacing(path) as tmp:
        weights = tmp / f"{settings.name}.npz"
        metrics["weights_sha256"] = checkpoints.write_arrays(weights, best.weights)
        atomic.write_json(tmp / f"{settings.name}.json", metrics)
    return metrics


def print_table(metrics: dict[str, Any], workdir: str) -> None:
    """Prints the errors and the paths of the files."""
    name = FINETUNED if f"{FINETUNED}_test_error" in metrics else FROM_SCRATCH
    label = f"{name.replace('_', ' ')} test error"
    print(f"""
{label:>23}  {metrics[f"{name}_test_error"]:.2%}
{"frozen test error":>23}  {metrics["frozen_test_error"]:.2%}, logistic regression on first codes
{"validation error":>23}  {metrics["validation_error"]:.2%}, after epoch {metrics["best_epoch"]}
{"labelled images":>23}  {metrics["labelled_images"]:,}

metrics    {Path(workdir) / name}.json
weights    {Path(workdir) / name}.npz""")


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


def initial_model(run: restore.TrainedRun) -> Autoencoder:
    """Builds the autoencoder of a run with its initial weights."""
    keras.utils.set_random_seed(run.config.seed)
    return build_model(
        run.strategy,
        run.config.precision,
        lambda: models.create(run.dataset.image_shape, run.config.model),
    )


def _count_classes(run: restore.TrainedRun) -> int:
    """Returns one more than the largest label."""
    splits = (run.dataset.train, run.dataset.validation, run.dataset.test)
    labels = [split.labels[:] for split in splits if split.labels is not None]
    name = run.config.data.name
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


def _execution(run: restore.TrainedRun, batch_size: int) -> str:
    """Returns the execution that the run uses, or would use, for its own steps on these devices."""
    chosen = run.run.executions.get(describe_devices(run.strategy))
    if chosen is None and run.config.execution in EXECUTIONS:
        chosen = run.config.execution
    return chosen or candidate_executions(run.strategy, run.model, batch_size)[0]


def _losses(
    steps: Steps, train: Split, ends: Sequence[int], settings: FineTuning, seed: int
) -> Iterator[float]:
    """Trains from each step of `ends` to the next; yields the mean loss of these steps."""
    images, labels = train.images, train.labels
    assert labels is not None
    batch_bytes = settings.batch_size * math.prod(images.shape[1:]) * images.dtype.itemsize
    max_steps = max(1, min(_MAX_STEPS_PER_CALL, _MAX_BYTES_PER_CALL // batch_bytes))
    ranges = (
        (first, min(first + max_steps, end))
        for start, end in itertools.pairwise(ends)
        for first in range(start, end, max_steps)
    )
    calls = training_batches(images, ranges, max_steps, settings.batch_size, seed, as_indices=True)
    losses: list[np.ndarray] = []
    with progress.bar("fine-tuning", ends[-1], unit="steps") as bar:
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
                yield float(np.concatenate(losses).mean())
                losses = []


def _read(run: restore.TrainedRun, split: Split) -> _Labelled:
    images, labels, _ = read(run, split)
    assert labels is not None
    return images, labels


def _frozen_error(autoencoder: Autoencoder, train: _Labelled, test: _Labelled) -> float:
    codes, test_codes = (map_batches(autoencoder.encode, images) for images, _ in (train, test))
    return 1 - probe_accuracy(codes, test_codes, train[1], test[1])


def _measure(classifier: Classifier, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the error, a share of the images, and the mean cross-entropy in nats."""
    logits = map_batches(classifier, images)
    error = np.mean(logits.argmax(axis=1) != labels)
    return float(error), float(tf.reduce_mean(_cross_entropy_nats(logits, labels)))


def _cross_entropy_nats(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns -log softmax(logits)[label] of logits [B, classes] and labels [B], float32 [B]."""
    # One-hot, since the gradient of a gather is a scatter, which XLA on a GPU does one by one.
    targets = tf.one_hot(labels, logits.shape[1])
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
