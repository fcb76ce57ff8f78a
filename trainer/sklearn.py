"""The trainer's face to scikit-learn: a transformer of tables [N, D] to codes [N, K]."""

import contextlib
import copy
import logging
import random
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import assert_all_finite, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from trainer import data, models
from trainer.config import flat, kind_settings, load_config, parse
from trainer.data import sources
from trainer.distribution.inference import map_batches
from trainer.distribution.strategy import build_model, make_inference_strategy
from trainer.distribution.variables import model_variables
from trainer.errors import Preempted, UserError, require
from trainer.models.base import Autoencoder
from trainer.run import workdir
from trainer.storage import paths
from trainer.train import train

_ROWS = 512  # computed at once, always: a row's code depends on no other row
_SEEDS = 2**31
_FLOATS = (np.float64, np.float32)
_ONE_AT_A_TIME = threading.Lock()  # Keras's precision and the seeds are the whole process's


class AutoencoderTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Reduces tables of numbers [N, D] to an autoencoder's codes [N, K].

    Attributes of a fitted one: `config_`, all that the training was told; `weights_`, arrays by
    their paths; `scaling_`, what X is standardised by, or None; `validation_loss_`, of the rows
    that were held out; `n_features_in_`, and `feature_names_in_` where X has names.
    """

    def __init__(
        self,
        config: str | ConfigDict = "dense",
        *,
        code_size: int | None = 2,
        hidden_units: Sequence[int] | None = None,
        num_epochs: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        standardise: bool = True,
        overrides: Mapping[str, Any] | None = None,
        workdir: str | Path | None = None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        """Takes a config of configs/, by its name or as it is, and what is to be other there.

        Args:
          config: of a kind that takes vectors. `docs/configuration.md` explains its keys.
          code_size: K. None: the config's, as for all that may be None down to `overrides`.
          hidden_units: of the dense layers before the code.
          num_epochs: passes over X.
          batch_size: rows a step; may be more than X has.
          learning_rate: the highest of the schedule.
          standardise: shifts and scales each feature to mean 0 and deviation 1, and has the
            decoder answer with any number. False: X as it is, which must then suit the config;
            most want numbers in [0, 1].
          overrides: values of the config's other keys, as {"model.activation": "tanh"}. They have
            the last word.
          workdir: a folder for the run, with charts, pictures and checkpoints, that the commands
            read which need no data. None: a temporary one.
          warm_start: goes on with the run that `workdir` holds, on the same X: to its end where it
            was interrupted, or beyond with a larger `num_epochs`. False refuses such a workdir.
          random_state: decides the weights, the order and the noise. None: another each time, but
            the run's own with `warm_start`.
          verbose: above 0, says how the training goes.
        """
        self.config = config
        self.code_size = code_size
        self.hidden_units = hidden_units
        self.num_epochs = num_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.standardise = standardise
        self.overrides = overrides
        self.workdir = workdir
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):  # noqa: N803
        """Trains on the rows of X [N, D]; a few of them, one at least, are held out to validate.

        Raises:
          ValueError: X, a parameter or the workdir cannot serve.
          NonFiniteError: the numbers ran away.
          KeyboardInterrupt: Ctrl-C or SIGTERM came; a `workdir` holds a checkpoint to go on from.
        """
        del y
        rows = _float32(validate_data(self, X, dtype=_FLOATS, ensure_min_samples=2))
        with contextlib.ExitStack() as scope:
            for guard in (_errors_of_scikit_learn(), _ONE_AT_A_TIME, _process_left_alone()):
                scope.enter_context(guard)
            folder = self._folder(scope)
            config = self._resolved(len(rows), self._seed(folder))
            losses = train(config, str(folder), rows)
            run = workdir.read(folder)
            last = run.checkpoints.find()
            assert last is not None, "a training that ends has a checkpoint"
            self.config_ = config
            self.weights_ = {
                path: array for path, array in last.state().items() if path.startswith("model/")
            }
            self.scaling_ = data.scaling_of(run.inputs)
            self.validation_loss_ = losses["loss"]
            self._n_features_out = self._model().code_size
        return self

    def transform(self, X):  # noqa: N803
        """The codes [N, K] of rows [N, D], of X's type where it is float32 or float64."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_FLOATS, reset=False)  # noqa: N806
        rows = _float32(X)
        if self.scaling_ is not None:
            rows = self.scaling_.apply(rows)
        return _mapped(self._model, "encode", rows).astype(X.dtype, copy=False)

    def inverse_transform(self, X):  # noqa: N803
        """What the decoder makes of codes [N, K]: rows [N, D] in the units of the fitted X."""
        check_is_fitted(self)
        codes = check_array(X, dtype=_FLOATS, input_name="X")
        if codes.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has {codes.shape[1]} features, but the codes are of {self._n_features_out}"
            )
        rows = _mapped(self._model, "decode", _float32(codes))
        if self.scaling_ is not None:
            rows = self.scaling_.undo(rows)
        return rows.astype(codes.dtype, copy=False)

    def score(self, X, y=None) -> float:  # noqa: N803
        """Minus the mean squared error of the reconstruction, by which a search compares."""
        del y
        errors = self.inverse_transform(self.transform(X)) - check_array(X, dtype=_FLOATS)
        return -float(np.mean(np.square(errors, dtype=np.float64)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _folder(self, scope: contextlib.ExitStack) -> Path:
        """The run's: the user's, or one that the scope takes away."""
        if self.workdir is None:
            require(not self.warm_start, "warm_start=True goes on with a run; workdir must name it")
            return Path(scope.enter_context(tempfile.TemporaryDirectory(prefix="trainer-")))
        folder = paths.path_of(self.workdir)
        require(
            self.warm_start or not (folder / workdir.CONFIG).exists(),
            f"{folder} holds a run; warm_start=True goes on with it, another workdir leaves it",
        )
        return folder

    def _seed(self, folder: Path) -> int:
        if self.random_state is None and (folder / workdir.CONFIG).exists():
            return workdir.read(folder).config.seed
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(_SEEDS))

    def _resolved(self, count: int, seed: int) -> ConfigDict:
        """The config of a run on so many rows."""
        named = self.config
        config = load_config(named) if isinstance(named, str) else copy.deepcopy(named)
        config.seed = seed
        config.data.name = sources.MEMORY
        config.data.standardise = self.standardise
        config.data.validation_fraction = max(config.data.validation_fraction, 1 / count)
        config.pictures = self.workdir is not None
        config.quiet = not self.verbose
        settings = {
            "num_epochs": self.num_epochs,
            "batch_size": self.batch_size,
            "optimizer.learning_rate": self.learning_rate,
            **_layers(config.model, self.hidden_units, self.code_size),
            **(_of_any_numbers(config.model) if self.standardise else {}),
        }
        settings = {key: value for key, value in settings.items() if value is not None}
        settings |= self.overrides or {}
        name = settings.get("data.name", sources.MEMORY)
        require(name == sources.MEMORY, f"data.name={name!r} is not allowed; the data are X")
        _set(config, settings)
        return config

    def _model(self) -> Autoencoder:
        """The trained model, made anew: so its weights alone are what is pickled and copied."""
        model = build_model(
            make_inference_strategy(),
            self.config_.precision,
            lambda: models.create((self.n_features_in_,), parse(self.config_).model),
        )
        for path, variable in model_variables(model).items():
            variable.assign(self.weights_[path])
        return model


def _layers(
    model: ConfigDict, hidden_units: Sequence[int] | None, code_size: int | None
) -> dict[str, Any]:
    """The settings of a kind's dense layers; of some, one key tells of the code too."""
    if "layer_sizes" not in model:
        return {"model.hidden_units": hidden_units, "model.code_size": code_size}
    *hidden, code = model.layer_sizes
    hidden = hidden if hidden_units is None else list(hidden_units)
    return {"model.layer_sizes": (*hidden, code if code_size is None else code_size)}


def _of_any_numbers(model: ConfigDict) -> dict[str, Any]:
    """The settings with which a kind takes numbers outside [0, 1] too."""
    settings = kind_settings(model.name).for_vectors or {}
    return {f"model.{key}": value for key, value in settings.items()}


def _set(config: ConfigDict, settings: Mapping[str, Any]) -> None:
    """Gives some of a config's keys, dotted, other values."""
    known = flat(config.to_dict())
    for key, value in settings.items():
        require(key in known, f"the config has no key {key!r}; allowed: {', '.join(known)}")
        kind = type(known[key])
        plain = value.item() if isinstance(value, np.generic) else value  # of a grid of numpy's
        if kind is tuple and isinstance(plain, Sequence | np.ndarray):
            plain = tuple(np.asarray(plain).tolist())
        *sections, name = key.split(".")
        section = config
        for part in sections:
            section = section[part]
        try:
            section[name] = plain
        except TypeError as error:
            raise UserError(
                f"{key}={value!r} is not allowed; it takes a value of type {kind.__name__}"
            ) from error


def _float32(X: np.ndarray) -> np.ndarray:  # noqa: N803
    """What a model takes; ValueError if that cannot hold it."""
    with np.errstate(over="ignore"):  # told in the next line
        rows = X.astype(np.float32)
    assert_all_finite(rows, input_name="X")
    return rows


def _mapped(make_model: Callable[[], Autoencoder], method: str, rows: np.ndarray):
    """A model's "encode" or "decode" of rows, in whole batches."""
    padded = np.zeros((-(-len(rows) // _ROWS) * _ROWS, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    with _ONE_AT_A_TIME, _process_left_alone():
        return map_batches(getattr(make_model(), method), padded)[: len(rows)]


@contextlib.contextmanager
def _errors_of_scikit_learn() -> Iterator[None]:
    """Tells mistakes and interruptions in the way that scikit-learn's tools know."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from error
    except Preempted as error:  # an Exception, which a search would take for a failed fit
        raise KeyboardInterrupt(str(error)) from error


@contextlib.contextmanager
def _process_left_alone() -> Iterator[None]:
    """Leaves the random numbers of Python and NumPy as if none had been drawn, and keeps quiet.

    TensorFlow warns of functions that are traced again and again, as those of each fit must be.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    logger = tf.get_logger()
    logger.addFilter(_is_not_of_tracing)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_of_tracing)
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _is_not_of_tracing(record: logging.LogRecord) -> bool:
    return "retracing" not in record.getMessage()
