"""Trains the encoder of a run to tell labels, by a softmax layer on its code."""

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
from trainer.errors import require, require_at_least
from trainer.evaluation import evaluate
from trainer.models.base import Autoencoder, StepContext
from trainer.run import checkpoints, restore
from trainer.storage import atomic, paths

FINETUNED = "finetuned"  # names of the files, without their endings
FROM_SCRATCH = "from_scratch"
_LABELLED_SEED = 0  # every run, whatever its seed, is given the same labels
_MOST_STEPS_PER_CALL = 100
_MOST_BYTES_PER_CALL = 64 * 2**20  # of images


class Classifier(keras.Model):
    """Logits W code + b of an autoencoder's code; its encoder is trained with W and b.

    So Vincent et al. 2010 and Rifai et al. 2011 measure what an encoder has learnt.
    """

    def __init__(self, autoencoder: Autoencoder, classes: int):
        super().__init__()
        self.encoder = autoencoder.encoder
        self._encode = autoencoder.encode  # which may do more than its encoder
        self.softmax = keras.layers.Dense(classes, name="softmax", dtype="float32")
        self.softmax.build((None, autoencoder.code_size))
        self.built = True

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Images [B, H, W, C] to logits, float32 [B, classes]."""
        return self.softmax(self._encode(images))

    def loss_terms(self, images: tf.Tensor, context: StepContext) -> dict[str, tf.Tensor]:
        """The `cross_entropy` of the labels, in nats."""
        return {"cross_entropy": _cross_entropy_nats(self(images), context.labels)}

    def statistics(self, images: tf.Tensor) -> None:
        """Nothing that needs means over the batch."""
        del images


def finetune(
    folder: str,
    which: str = "last",
    *,
    num_epochs: int,
    batch_size: int,
    learning_rate: float,
    schedule: str,
    patience_epochs: int,
    labels: int = 0,
    from_scratch: bool = False,
) -> dict[str, Any]:
    """Trains a classifier from a run's "last" or "best" checkpoint, and measures it.

    It learns from the run's training images, or `labels` of them, by Adam. Of its epochs the one
    of lowest validation error is taken, of equal ones that of the lower cross-entropy; the test
    images have no say. `from_scratch` begins with the weights that the run began with.

    Writes `finetuned.json` and the weights, by their paths, to `finetuned.npz`; from scratch
    `from_scratch.json` and `from_scratch.npz`. Returns what the former holds: beside the settings
    `finetuned_test_error` or `from_scratch_test_error`, the share of the test images told wrong;
    `frozen_test_error`, likewise by logistic regression on the codes as they were before.

    Raises:
      UserError: a setting is not possible, the data have no labels, or what `trained.load` raises.
      NonFiniteError: the numbers ran away; nothing is written.
      StorageError: the workdir cannot be written; what was there before still is.
    """
    _check(num_epochs, learning_rate, patience_epochs, labels)

    # 1. The run, and the labels.
    path = paths.path_of(folder)
    run = restore.load(path, which)
    config = run.config
    if config.deterministic:
        enable_determinism()
    classes = _count_classes(run)
    train = _labelled(run.dataset.train, labels)
    require(
        1 <= batch_size <= len(train),
        f"batch_size={batch_size} is not allowed; {len(train)} labelled images allow 1 to "
        f"{len(train)}",
    )
    autoencoder = _with_first_weights(run) if from_scratch else run.model

    # 2. The classifier and its steps.
    keras.utils.set_random_seed(config.seed)
    classifier = build_model(
        run.strategy, config.precision, lambda: Classifier(autoencoder, classes)
    )
    ends = [math.ceil(epoch * len(train) / batch_size) for epoch in range(num_epochs + 1)]
    steps = Steps(
        run.strategy,
        classifier,
        lambda: optimizers.create("adam", clip_norm=0.0, weight_decay=0.0),
        optimizers.learning_rate_schedule(
            schedule, learning_rate=learning_rate, warmup_steps=0, last_step=ends[-1]
        ),
        StepSettings(config.precision, batch_size, config.seed, last_step=ends[-1]),
        execution=_execution(run, batch_size),
    )
    if isinstance(train.images, np.ndarray) and config.data.placement != "host":
        steps.cache_on_device(train.images)

    # 3. What is told from the codes as they are; the epochs, of which the best is kept.
    test, test_labels = _read(run, run.dataset.test)
    frozen_test_error = _frozen_error(autoencoder, *_read(run, train), test, test_labels)
    began = time.monotonic()
    validation, validation_labels = _read(run, run.dataset.validation)
    best = _Epoch(0, math.inf, math.inf, {})
    for epoch, loss in enumerate(_losses(steps, train, ends, batch_size, config.seed), start=1):
        error, cross_entropy = _measure(classifier, validation, validation_labels)
        print(
            f"epoch {epoch} of {num_epochs}  cross-entropy {loss:.5f}  "
            f"validation {cross_entropy:.5f}, error {error:.2%}",
            flush=True,
        )
        if (error, cross_entropy) < (best.error, best.cross_entropy):
            best = _Epoch(epoch, error, cross_entropy, _weights(classifier))
        if epoch - best.number >= patience_epochs:
            break
    seconds = time.monotonic() - began

    # 4. The test images, once.
    for variable_path, variable in model_variables(classifier).items():
        variable.assign(best.weights[variable_path])
    test_error, _ = _measure(classifier, test, test_labels)
    name = FROM_SCRATCH if from_scratch else FINETUNED
    metrics = {
        "step": 0 if from_scratch else run.step,
        f"{name}_test_error": test_error,
        "frozen_test_error": frozen_test_error,
        "validation_error": best.error,
        "best_epoch": best.number,
        "epochs": epoch,
        "labelled_images": len(train),
        "num_epochs": num_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "patience_epochs": patience_epochs,
        "training_seconds": seconds,
    }
    with atomic.replacing(path) as aside:
        metrics["weights_sha256"] = checkpoints.write_arrays(aside / f"{name}.npz", best.weights)
        atomic.write_json(aside / f"{name}.json", metrics)
    return metrics


def print_table(metrics: dict[str, Any], folder: str) -> None:
    """Prints the errors, and where the files are."""
    name = FINETUNED if f"{FINETUNED}_test_error" in metrics else FROM_SCRATCH
    print(f"""
{name.replace("_", " "):>22}  {metrics[f"{name}_test_error"]:.2%} of the test set told wrong
{"frozen":>22}  {metrics["frozen_test_error"]:.2%}, by logistic regression on its first codes
{"validation":>22}  {metrics["validation_error"]:.2%}, after epoch {metrics["best_epoch"]}
{"labelled examples":>22}  {metrics["labelled_images"]:,}

metrics    {Path(folder) / name}.json
weights    {Path(folder) / name}.npz""")


@dataclasses.dataclass(frozen=True)
class _Epoch:
    """What a classifier is worth after one of its epochs, on the validation images."""

    number: int
    error: float
    cross_entropy: float
    weights: dict[str, np.ndarray]


def _check(num_epochs: int, learning_rate: float, patience_epochs: int, labels: int) -> None:
    require_at_least("num_epochs", num_epochs, 1)
    require_at_least("patience_epochs", patience_epochs, 1)
    require_at_least("labels", labels, 0)
    require(
        0 < learning_rate < math.inf,
        f"learning_rate={learning_rate} is not allowed; it must be above 0 and finite",
    )


def _count_classes(run: restore.TrainedRun) -> int:
    """One more than the largest label."""
    parts = (run.dataset.train, run.dataset.validation, run.dataset.test)
    labels = [part.labels[:] for part in parts if part.labels is not None]
    require(
        len(labels) == len(parts) and min(part.min() for part in labels) >= 0,
        f"data.name={run.config.data.name!r} has no labels from 0 up to learn from; an .npz file "
        "needs train_labels, and test_labels where it has test; a folder of images, class folders; "
        "a table, data.label_column",
    )
    largest = int(max(part.max() for part in labels))
    count = sum(len(part) for part in labels)
    require(
        largest < count,
        f"the labels of data.name={run.config.data.name!r} reach up to {largest}, of {count} "
        "images; they must be the classes' numbers, counted from 0",
    )
    return 1 + largest


def _labelled(part: Split, count: int) -> Split:
    """So many random ones of the images, or all (0), their labels in memory.

    A larger number of them has those of a smaller one.
    """
    assert part.labels is not None
    require(
        count <= len(part), f"labels={count} is not allowed; there are {len(part)} training images"
    )
    images, labels = part.images, part.labels[:]
    if count:
        chosen = positions.permutation(_LABELLED_SEED, 0, len(part))[:count]
        images, labels = images[chosen], labels[chosen]
    require(
        len(np.unique(labels)) > 1,
        f"the {len(labels)} labelled images are of one class; there is nothing to tell",
    )
    return Split(images, labels)


def _read(run: restore.TrainedRun, part: Split) -> tuple[np.ndarray, np.ndarray]:
    """Images and their labels, as `evaluation.read` gives them."""
    images, labels = evaluate.read(run, part)
    assert labels is not None
    return images, labels


def _with_first_weights(run: restore.TrainedRun) -> Autoencoder:
    """The autoencoder as its training began."""
    keras.utils.set_random_seed(run.config.seed)
    return build_model(
        run.strategy,
        run.config.precision,
        lambda: models.create(run.dataset.image_shape, run.config.model),
    )


def _frozen_error(
    autoencoder: Autoencoder,
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
) -> float:
    train_codes, test_codes = (map_batches(autoencoder.encode, images) for images in (train, test))
    return 1 - evaluate.probe_accuracy(train_codes, train_labels, test_codes, test_labels)


def _execution(run: restore.TrainedRun, batch_size: int) -> str:
    """How the run computes its own steps on these devices, or would."""
    chosen = run.run.executions.get(describe_devices(run.strategy))
    if chosen is None and run.config.execution in EXECUTIONS:
        chosen = run.config.execution
    return chosen or candidate_executions(run.strategy, run.model, batch_size)[0]


def _losses(
    steps: Steps, train: Split, ends: Sequence[int], batch_size: int, seed: int
) -> Iterator[float]:
    """Trains from each step of `ends` to the next; gives the mean loss of these steps."""
    images, labels = train.images, train.labels
    assert labels is not None
    batch_bytes = batch_size * math.prod(images.shape[1:]) * images.dtype.itemsize
    most_steps = max(1, min(_MOST_STEPS_PER_CALL, _MOST_BYTES_PER_CALL // batch_bytes))
    ranges = (
        (first, min(first + most_steps, end))
        for start, end in itertools.pairwise(ends)
        for first in range(start, end, most_steps)
    )
    calls = training_batches(images, ranges, most_steps, batch_size, seed, as_indices=True)
    losses: list[np.ndarray] = []
    for first, count, numbers in calls.as_numpy_iterator():
        drawn = numbers
        if not steps.images_on_device:
            drawn = np.zeros((*numbers.shape, *images.shape[1:]), images.dtype)
            drawn[:count] = images[numbers[:count]]
        metrics = steps.train(first, drawn, count, labels[numbers])
        steps.require_finite(first, metrics)
        losses.append(metrics["loss"])
        if first + count in ends:
            yield float(np.concatenate(losses).mean())
            losses = []


def _measure(classifier: Classifier, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The share of images told wrong, and the mean cross-entropy in nats."""
    logits = map_batches(classifier, images)
    error = np.mean(logits.argmax(axis=1) != labels)
    return float(error), float(tf.reduce_mean(_cross_entropy_nats(logits, labels)))


def _cross_entropy_nats(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """-log softmax(logits)_label, [B, classes] and [B] to [B]."""
    # One-hot, since the gradient of a gather is a scatter, which XLA on a GPU does one by one.
    targets = tf.one_hot(labels, logits.shape[1])
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def _weights(classifier: Classifier) -> dict[str, np.ndarray]:
    variables = model_variables(classifier)
    return {path: variable.numpy() for path, variable in variables.items()}
