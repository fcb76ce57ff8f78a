"""Offers autoencoders as a scikit-learn transformer of tables [N, D] to codes [N, K]."""

import contextlib
import copy
import dataclasses
import functools
import logging
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OneToOneFeatureMixin,
    TransformerMixin,
)
from sklearn.utils import assert_all_finite, check_array, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from trainer import data
from trainer.config import Augment, flat, kind_settings, load_config, parse, require_key
from trainer.data import sources
from trainer.distribution import global_state
from trainer.distribution.forks import require_no_fork
from trainer.distribution.inference import in_batches
from trainer.distribution.strategy import (
    build_autoencoder,
    make_inference_strategy,
    set_matrix_precision,
)
from trainer.distribution.variables import assign_values, model_variables
from trainer.errors import Preempted, UserError, require
from trainer.models.base import Autoencoder
from trainer.run import workdir
from trainer.storage import paths
from trainer.training.train import train

_BATCH_ROWS = 512  # to which each batch is padded: a row's code must not depend on other rows
_SEED_LIMIT = 2**31  # above each random seed
FLOATS = (np.float64, np.float32)
_LOCK = threading.Lock()  # Keras's precision and the seeds are global


class AutoencoderTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Encodes tables of numbers [N, D] as an autoencoder's codes [N, K].

    Attributes after `fit`:
      config_: the config of the training, a `ConfigDict`.
      weights_: the arrays of the model by path.
      scaling_: the mean and std of each feature; None without `standardise`.
      validation_loss_: the loss of the rows that were held out.
      selected_features_: int [K], the columns of X that make the code of the concrete kind; None
        for other kinds.
      n_features_in_: D; `feature_names_in_` too, if X has column names.
    """

    # A process that unpickles it imports `trainer`, which drops TensorFlow's notes.
    __module__ = "trainer"

    def __init__(  # noqa: PLR0913  (parameters of an estimator are its arguments)
        self,
        config: str | ConfigDict = "table",
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
        """Takes a config and values for some of its keys; None keeps the config's value.

        Args:
          config: the name of a config of `configs/` or a `ConfigDict`, of a kind that takes
            vectors. `docs/configuration.md` explains its keys. By default the training starts at
            PCA, and its best checkpoint on validation is kept.
          code_size: K.
          hidden_units: units of the dense layers before the code.
          num_epochs: passes over X.
          batch_size: rows per step; may exceed the rows of X.
          learning_rate: the maximum of the schedule.
          standardise: scales each feature to mean 0 and std 1, and gives the decoder an unbounded
            output. False takes X as it is; most configs need values in [0, 1].
          overrides: values of other keys, as {"model.activation": "tanh"}; they take precedence.
          workdir: a folder that keeps the run, its charts, figures and checkpoints, for the
            commands that need no data. None: a temporary folder. Must be None in searches and
            cross-validation: their fits would share the folder.
          warm_start: resumes the run in `workdir` on the same X: an interrupted one to its end, a
            finished one beyond it with a larger `num_epochs`. False refuses a workdir with a run.
          random_state: seed of weights, order and noise. None: a new one for each run.
          verbose: above 0, prints the progress of the training.
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
        """Trains on the rows of X [N, D]; at least one of them is held out for validation.

        Raises:
          ValueError: X, a parameter or the workdir cannot be used.
          NonFiniteError: the loss or a weight became NaN or infinite.
          KeyboardInterrupt: Ctrl-C or SIGTERM; a `workdir` holds a checkpoint to resume from.
        """
        del y
        X = validate_data(self, X, dtype=FLOATS, ensure_min_samples=2)  # noqa: N806
        _float32(X)  # refuses numbers that are too large
        with contextlib.ExitStack() as scope:
            for guard in (_sklearn_errors(), _LOCK):
                scope.enter_context(guard)
            folder = self._folder(scope)
            config = self._resolved(len(X), self._seed(folder))
            scope.enter_context(_global_state_kept())  # after the seed: each fit draws another
            losses = train(config, str(folder), X)
            run = workdir.read(folder)
            chosen = run.checkpoints.find(run.config.checkpoint)
            assert chosen is not None, "a training that ends has a checkpoint"
            self.config_ = config
            self.weights_ = chosen.weights()
            self.scaling_ = data.scaling_of(run.inputs)
            best = chosen.validation_loss if config.checkpoint == "best" else None
            self.validation_loss_ = losses["loss"] if best is None else best
            model: Any = self._fitted().model
            self._n_features_out = model.code_size
            selects = hasattr(model, "selected_pixels")
            self.selected_features_: Any = model.selected_pixels() if selects else None
        return self

    def transform(self, X):  # noqa: N803
        """Returns the codes [N, K] of rows [N, D], in X's type if it is float32 or float64."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=FLOATS, reset=False)  # noqa: N806
        return self._apply("encode", self._inputs(X)).astype(X.dtype, copy=False)

    def inverse_transform(self, X):  # noqa: N803
        """Decodes codes [N, K] to rows [N, D] in the units of the fitted X."""
        check_is_fitted(self)
        codes = check_array(X, dtype=FLOATS, input_name="X")
        if codes.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has {codes.shape[1]} features, but a code has {self._n_features_out}"
            )
        rows = self._apply("decode", _float32(codes))
        if self.scaling_ is not None:
            rows = self.scaling_.undo(rows, codes.dtype)
        return rows.astype(codes.dtype, copy=False)

    def get_feature_names_out(self, input_features=None):
        """Returns the names of the codes [K]: of the columns of X that the concrete kind selects.

        Those of other kinds are the name of the class and a number.
        """
        if not _selects_features(self):
            return super().get_feature_names_out(input_features)
        names = OneToOneFeatureMixin.get_feature_names_out(self, input_features)
        return names[self.selected_features_]

    @available_if(lambda self: _selects_features(self))
    def get_support(self, indices: bool = False) -> np.ndarray:
        """Returns which columns of X the concrete kind selects, bool [D].

        With `indices` their numbers in the order of the code, int [K].
        """
        selected: np.ndarray = self.selected_features_
        return selected if indices else np.isin(np.arange(self.n_features_in_), selected)

    def codes_and_residuals(self, X) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
        """Returns the codes [N, K] of rows, and rows minus reconstructions [N, D], float32.

        The residuals are in the units that the network was trained on.
        """
        check_is_fitted(self)
        inputs = self._inputs(validate_data(self, X, dtype=FLOATS, reset=False))
        both = self._apply("codes_and_reconstructions", inputs)
        codes, reconstructions = np.split(both, [self._n_features_out], axis=1)
        return codes, inputs - reconstructions

    def score(self, X, y=None) -> float:  # noqa: N803
        """Returns minus the mean squared error of the reconstructions."""
        del y
        errors = self.inverse_transform(self.transform(X)) - check_array(X, dtype=FLOATS)
        return -float(np.mean(np.square(errors, dtype=np.float64)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _folder(self, scope: contextlib.ExitStack) -> Path:
        """Returns the user's workdir, or a temporary folder that the scope deletes."""
        if self.workdir is None:
            require(not self.warm_start, "warm_start=True resumes a run; workdir must name it")
            return Path(scope.enter_context(tempfile.TemporaryDirectory(prefix="trainer-")))
        folder = paths.workdir_of(self.workdir)
        require(
            self.warm_start or not (folder / workdir.CONFIG).exists(),
            f"{folder} holds a run; take another workdir (AutoencoderTransformer resumes its own "
            "runs with warm_start=True)",
        )
        return folder

    def _seed(self, folder: Path) -> int:
        if self.random_state is None and (folder / workdir.CONFIG).exists():
            return workdir.read(folder).config.seed
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(_SEED_LIMIT))

    def _resolved(self, count: int, seed: int) -> ConfigDict:
        """Returns the config of a run on `count` rows."""
        named = self.config
        for name, kinds in (("config", (str, ConfigDict)), ("overrides", (Mapping, type(None)))):
            given, allowed = getattr(self, name), " or ".join(kind.__name__ for kind in kinds)
            line = f"{name}={given!r} is not allowed; it takes {allowed}"
            require(isinstance(given, kinds), line)
        config = load_config(named) if isinstance(named, str) else copy.deepcopy(named)
        if isinstance(named, str):
            config.augment.update(dataclasses.asdict(Augment()))  # rows are not images
        config.seed = seed
        config.data.name = sources.MEMORY
        config.data.validation_fraction = max(config.data.validation_fraction, 1 / count)
        config.tensorboard &= self.workdir is not None
        config.quiet = not self.verbose
        settings = {
            "data.standardise": self.standardise,
            "num_epochs": self.num_epochs,
            "batch_size": self.batch_size,
            "optimizer.learning_rate": self.learning_rate,
            **_layer_settings(config.model, self.hidden_units, self.code_size),
            **(_unbounded_settings(config.model) if self.standardise else {}),
        }
        settings = {key: value for key, value in settings.items() if value is not None}
        settings |= self.overrides or {}
        name = settings.get("data.name", sources.MEMORY)
        require(name == sources.MEMORY, f"data.name={name!r} is not allowed; the data are X")
        _set(config, settings)
        return config

    def _inputs(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        """Returns rows in the units that the network was trained on, float32."""
        rows = _float32(X)
        return rows if self.scaling_ is None else self.scaling_.apply(X)

    def _apply(self, method: str, rows: np.ndarray) -> np.ndarray:
        """Applies a function of `_FittedModel` to rows, in padded batches."""
        with _LOCK, _global_state_kept():
            require_no_fork()
            function = getattr(self._fitted(), method)
            set_matrix_precision(self.config_.precision)
            starts = range(0, len(rows), _BATCH_ROWS)
            return np.concatenate([function(rows[start : start + _BATCH_ROWS]) for start in starts])

    def _fitted(self) -> "_FittedModel":
        """Returns the trained model, built once for each fit; only its weights are pickled."""
        fitted = _FITTED.get(self)
        if fitted is None or fitted.weights is not self.weights_:
            config = parse(self.config_)
            model = build_autoencoder(
                make_inference_strategy(), config.precision, (self.n_features_in_,), config.model
            )
            assign_values(model_variables(model), self.weights_)
            fitted = _FITTED[self] = _FittedModel(model, self.weights_)
        return fitted


class _FittedModel:
    """Holds a trained model, and its functions, compiled when they are first used."""

    def __init__(self, model: Autoencoder, weights: Mapping[str, np.ndarray]):
        self.model = model
        self.weights = weights

    @functools.cached_property
    def encode(self) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the function of up to `_BATCH_ROWS` rows that computes codes."""
        return in_batches(self.model.encode, self.model.image_shape, _BATCH_ROWS)

    @functools.cached_property
    def codes_and_reconstructions(self) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the function of up to `_BATCH_ROWS` rows that computes both, side by side."""

        def both(rows):
            codes = self.model.encode(rows)
            return tf.concat([codes, self.model.decode(codes)], axis=1)

        return in_batches(both, self.model.image_shape, _BATCH_ROWS)

    @functools.cached_property
    def decode(self) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the function of up to `_BATCH_ROWS` codes that decodes them."""
        return in_batches(self.model.decode, (self.model.code_size,), _BATCH_ROWS)


_FITTED: weakref.WeakKeyDictionary[AutoencoderTransformer, _FittedModel] = (
    weakref.WeakKeyDictionary()
)


def _selects_features(transformer: AutoencoderTransformer) -> bool:
    return getattr(transformer, "selected_features_", None) is not None


def _layer_settings(
    model: ConfigDict, hidden_units: Sequence[int] | None, code_size: int | None
) -> dict[str, Any]:
    """Returns the settings of a kind's dense layers; in `layer_sizes`, the code is the last."""
    if "layer_sizes" not in model:
        return {"model.hidden_units": hidden_units, "model.code_size": code_size}
    *hidden, code = model.layer_sizes
    hidden = hidden if hidden_units is None else list(hidden_units)
    return {"model.layer_sizes": (*hidden, code if code_size is None else code_size)}


def _unbounded_settings(model: ConfigDict) -> dict[str, Any]:
    """Returns the settings with which a kind takes values outside [0, 1]."""
    settings = kind_settings(model.name).for_vectors or {}
    return {f"model.{key}": value for key, value in settings.items()}


def _set(config: ConfigDict, settings: Mapping[str, Any]) -> None:
    """Sets keys of a config, as "model.activation"."""
    known = flat(config.to_dict())
    for key, value in settings.items():
        require_key(key, known)
        kind = type(known[key])
        plain = value.item() if isinstance(value, np.generic) else value  # from a NumPy grid
        if kind is tuple and isinstance(plain, Sequence | np.ndarray):
            plain = tuple(np.asarray(plain).tolist())
        try:
            config.update_from_flattened_dict({key: plain})
        except TypeError as error:
            raise UserError(
                f"{key}={value!r} is not allowed; it takes a value of type {kind.__name__}"
            ) from error


def _float32(X: np.ndarray) -> np.ndarray:  # noqa: N803
    """Returns X as float32; raises ValueError if a number is too large for it."""
    with np.errstate(over="ignore"):  # raised by the check below
        rows = X.astype(np.float32)
    assert_all_finite(rows, input_name="X")
    return rows


@contextlib.contextmanager
def _sklearn_errors() -> Iterator[None]:
    """Converts UserError and Preempted to the exceptions that scikit-learn expects."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from error
    except Preempted as error:  # a search would count it as a failed fit
        raise KeyboardInterrupt(str(error)) from error


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    """Restores the global state as `global_state.kept`; drops TensorFlow's warnings on retracing.

    Each fit has to trace its functions again.
    """
    logger = tf.get_logger()
    logger.addFilter(_is_not_retracing)
    try:
        with global_state.kept():
            yield
    finally:
        logger.removeFilter(_is_not_retracing)


def _is_not_retracing(record: logging.LogRecord) -> bool:
    return "retracing" not in record.getMessage()
