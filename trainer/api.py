"""Trains and uses runs from Python: arrays, data frames and files in, arrays out."""

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ml_collections import ConfigDict

from trainer.config import Config, load_config
from trainer.data.files.open_table import open_frame
from trainer.distribution import global_state
from trainer.errors import UserError, require, require_at_least
from trainer.evaluation.anomaly_options import AnomalyOptions
from trainer.evaluation.evaluate import evaluate
from trainer.run import error_reference, restore
from trainer.serving import prior_samples, readers
from trainer.serving.batched_model import BatchedModel, Columns
from trainer.serving.options import DEFAULTS, StreamOptions, check_examples
from trainer.storage import paths
from trainer.training.train import train as train_run

_Function: TypeAlias = Callable[[BatchedModel, np.ndarray], Columns]


class TrainedRun:
    """Uses the model of a trained run.

    Examples are an array [N, H, W, C] or [N, D] in the units of the training data, a data frame of
    pandas or polars with the columns of the training's table, a path of what `trainer.encode` reads
    (a folder of images, an image, an array file, a table), or a split of the run's own data:
    "train", "validation" or "test" (Path("test") is a folder).

    Attributes:
      workdir: the folder of the run.
      config: the config of the run.
      feature_names: the features of a table, in the order of the vectors; else ().
    """

    def __init__(self, trained: restore.TrainedModel, checkpoint: str = ""):
        """Takes a restored model and the choice of its checkpoint, "last", "best" or ""."""
        self._checkpoint = checkpoint
        self.workdir = trained.run.workdir
        self.config: Config = trained.config
        self.feature_names = trained.features.names if trained.features else ()
        self._trained = trained
        self._training = readers.preprocessing_of(trained)

    def __reduce__(self) -> tuple[Any, ...]:
        """Makes copies, also in other processes, load the checkpoint from the workdir."""
        return load, (str(self.workdir.absolute()), self._checkpoint)

    def __repr__(self) -> str:
        kind, step = self.config.model.name, self._trained.step
        return f"<TrainedRun {str(self.workdir)!r}: {kind!r}, step {step:,}>"

    def encode(
        self, examples: Any, *, resize: bool = False, unknown_categories: bool = False
    ) -> np.ndarray:
        """Returns the codes of examples, float32 [N, K].

        `resize` scales image files to the size of the model's images. `unknown_categories` takes
        texts that the training's table does not hold as none of their column's, with a warning;
        otherwise they are refused.

        Raises:
          UserError: the examples cannot be read or do not fit the model.
        """
        options = StreamOptions(resize=resize, unknown_categories=unknown_categories)
        return _last_column(self._blocks(examples, BatchedModel.codes, options))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Returns images [N, H, W, C] in [0, 1] or vectors [N, D] in the user's units, float32.

        Raises:
          UserError: the codes are not an array of finite numbers [N, K].
        """
        shape = (self._trained.model.code_size,)
        given = readers.of_rows(_numbers(codes), shape, "codes")
        require(bool(given.count), "there is no code")
        model = BatchedModel(self._trained, given, DEFAULTS.batch_size)
        return _last_column(_apply(model, given, BatchedModel.decoded))

    def reconstruct(
        self, examples: Any, *, resize: bool = False, unknown_categories: bool = False
    ) -> np.ndarray:
        """Returns the reconstructions of examples, as `decode` does; without noise if it denoises.

        Takes the arguments of `encode`, and raises what it raises.
        """
        options = StreamOptions(resize=resize, unknown_categories=unknown_categories)
        return _last_column(self._blocks(examples, BatchedModel.reconstructions, options))

    def errors(
        self, examples: Any, *, resize: bool = False, unknown_categories: bool = False
    ) -> np.ndarray:
        """Returns the mean squared error of each reconstruction, float32 [N].

        Of standardised vectors it is in squared standard deviations. Takes the arguments of
        `encode`, and raises what it raises.
        """
        options = StreamOptions(resize=resize, unknown_categories=unknown_categories)
        return _last_column(self._blocks(examples, BatchedModel.errors, options))

    def scores(
        self,
        examples: Any,
        *,
        resize: bool = False,
        unknown_categories: bool = False,
        squared_errors: bool = False,
    ) -> dict[str, np.ndarray]:
        """Returns the scores of examples that `trainer.encode --errors` writes, [N] by name.

        The `errors`, float32, are always there. Evaluations add `pca_errors` and `distances`,
        float32, and with thresholds `is_anomaly` and `is_anomaly_by_distance`, bool; of the
        evaluation of another checkpoint only `pca_errors` are used, with a warning. Vectors have
        `distances`, images where the evaluation named anomalies. `squared_errors` adds the squared
        error of each value, [N, H, W, C] or [N, D].

        Takes the other arguments of `encode`, and raises what it raises.
        """
        options = StreamOptions(
            resize=resize,
            unknown_categories=unknown_categories,
            errors=True,
            squared_errors=squared_errors,
        )
        blocks = self._blocks(examples, functools.partial(_scores, squared_errors), options)
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def sample(self, count: int) -> np.ndarray:
        """Returns what `count` codes of the prior decode to, as `decode` does.

        Raises:
          UserError: the kind has no prior, or the count is below 1.
        """
        require_at_least("count", count, 1)
        prior_samples.require_prior(self._trained)
        return _last_column(prior_samples.blocks(self._trained, count))

    def selected_features(self) -> np.ndarray:
        """Returns what the concrete kind selects, in the order of the code: names or indices [K].

        They are the names of a table's features, or indices into the values of an example.

        Raises:
          UserError: the kind selects no features.
        """
        model: Any = self._trained.model
        require(
            hasattr(model, "selected_pixels"),
            f"{self.workdir} holds a {self.config.model.name!r}, which selects no features",
        )
        selected = model.selected_pixels()
        return np.array(self.feature_names)[selected] if self.feature_names else selected

    def evaluate(
        self,
        *,
        normal_label: str | int | Sequence[str | int] = (),
        anomaly_label: str | int | Sequence[str | int] = (),
        error_quantile: float = 0.0,
    ) -> dict[str, Any]:
        """Measures the run on its own data as `trainer.evaluate` does; returns the metrics.

        The arguments are the flags of these names, a class or several; docs/anomalies.md explains
        them.

        Raises:
          UserError: the data of the run cannot be read or have changed, or do not fit an argument.
        """
        normal, anomalous = (
            (str(names),) if isinstance(names, str | int | np.integer) else tuple(map(str, names))
            for names in (normal_label, anomaly_label)
        )
        anomalies = AnomalyOptions(normal, anomalous, error_quantile)
        with global_state.kept():
            return evaluate(str(self.workdir), anomalies=anomalies)

    def _blocks(self, examples: Any, function: _Function, options: StreamOptions) -> list[Columns]:
        """Returns a function's columns of examples, a block at a time."""
        if isinstance(examples, str | Path):
            check_examples(examples, self._training.shape, options)
            given = (
                readers.split(restore.load_data(self._trained.run), examples)
                if isinstance(examples, str) and examples in paths.SPLITS
                else readers.examples(paths.path_of(examples), self._training, options)
            )
        elif hasattr(examples, "columns"):
            given = readers.of_table(open_frame(examples), self._training, options)
        else:
            given = readers.of_rows(_numbers(examples), self._training.shape)
        model = BatchedModel(self._trained, given, DEFAULTS.batch_size)
        blocks = _apply(model, given, function)
        require(not given.unreadable, f"unreadable images: {'; '.join(given.unreadable)}")
        require(len(blocks) > 0, "there is no example")
        if given.unknown:
            warnings.warn(f"unknown texts: {'; '.join(given.unknown)}", stacklevel=3)
        if options.errors and model.has_stale_evaluation:
            warnings.warn(error_reference.STALE, stacklevel=3)
        return blocks


def load(workdir: str | Path, checkpoint: str = "") -> TrainedRun:
    """Loads the "last" or the "best" checkpoint of the run in a workdir; "": as its config says.

    Raises:
      UserError: the workdir is no path or holds no run that can be read, or the checkpoint is not
        known.
    """
    with global_state.kept():  # Keras draws a seed for each layer that it builds
        trained = restore.load_model(paths.workdir_of(workdir), checkpoint)
    return TrainedRun(trained, checkpoint)


load.__module__ = "trainer"  # whose import, where a copy is unpickled, drops TensorFlow's notes


def train(config: str | Config | ConfigDict, workdir: str | Path) -> TrainedRun:
    """Trains a run to its end, or resumes it, and loads it.

    Leaves TensorFlow's seed and op determinism as the run set them.

    Args:
      config: a config, or the name of one in configs/.
      workdir: the folder of the run.

    Raises:
      UserError: the config, the data or the workdir cannot be used.
      NonFiniteError: the loss or the weights are not finite; the last checkpoint is intact.
    """
    require(
        isinstance(config, str | Config | ConfigDict),
        f"config={config!r} is not allowed; it takes a config or the name of one",
    )
    settings = load_config(config) if isinstance(config, str) else config
    with global_state.kept():
        train_run(settings, str(paths.workdir_of(workdir)))
    return load(workdir)


def _numbers(values: Any) -> np.ndarray:
    """Returns an array; an array of objects, as of a data frame of several types, as float64."""
    try:
        array = np.asarray(values)
        if array.dtype != object:
            return array
        if any(isinstance(value, str) for value in array.flat):
            raise TypeError("text")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"a {type(values).__name__} is no array of numbers; a sparse matrix has toarray(), and "
            "a data frame is taken as it is"
        ) from error


def _scores(squared_errors: bool, model: BatchedModel, rows: np.ndarray) -> Columns:
    columns = model.codes_and_errors(rows, squared_errors=squared_errors)
    del columns["codes"]
    return columns


def _apply(model: BatchedModel, given: readers.Input, function: _Function) -> list[Columns]:
    """Applies a function to the rows, a block at a time."""
    return [function(model, block.rows) for block in given.blocks(model.batch_size)]


def _last_column(blocks: Iterable[Columns]) -> np.ndarray:
    return np.concatenate([[*columns.values()][-1] for columns in blocks])
