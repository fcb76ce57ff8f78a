"""Restores a trained model from its workdir alone."""

import contextlib
import dataclasses
import operator
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainer import data
from trainer.config import Config, Data, missing_paths
from trainer.distribution.strategy import (
    Strategy,
    build_autoencoder,
    leave_other_gpus,
    make_inference_strategy,
)
from trainer.distribution.variables import model_variables
from trainer.errors import UserError, require, require_choice
from trainer.models.base import Autoencoder
from trainer.run import workdir
from trainer.run.checkpoints import Checkpoint, State
from trainer.storage import paths


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """Holds a model with the weights of a checkpoint, without the data of the run."""

    run: workdir.Run
    strategy: Strategy  # of the devices that hold the model
    step: int  # of the checkpoint
    model: Autoencoder
    scaling: data.Scaling | None  # from the user's units to the model's inputs
    features: data.Features | None  # of a table, in the model's order
    fill: np.ndarray | None  # float64 [D], replaces missing values, in the user's units

    @property
    def config(self) -> Config:
        """Returns the config of the run."""
        return self.run.config


@dataclasses.dataclass(frozen=True)
class RestoredRun(TrainedModel):
    """Adds the data of its run to a trained model."""

    dataset: data.Dataset


def load_model(folder: str | Path, checkpoint: str = "") -> TrainedModel:
    """Restores the "last" or the "best" checkpoint of the run in a workdir.

    By default, the config of the run says which.

    Must be called before TensorFlow's first operation.

    Raises:
      UserError: the workdir holds no run, or one that cannot be read.
    """
    return _restore(workdir.read(paths.path_of(folder)), checkpoint)


def load(folder: str | Path, checkpoint: str = "", data_name: str = "") -> RestoredRun:
    """Restores a checkpoint as `load_model`, and reads the data of the run.

    `data_name` says where the data are now, if they have moved, written as data.name.

    Raises:
      UserError: as `load_model`, or the data are not what the run was trained on.
    """
    run = workdir.read(paths.path_of(folder))
    settings = run.locate(run.config.data, data_name)
    return RestoredRun(**vars(_restore(run, checkpoint)), dataset=_load_data(run, settings))


def load_data(run: workdir.Run) -> data.Dataset:
    """Reads the data of a run.

    Raises:
      UserError: the data cannot be read, or are not what the run was trained on.
    """
    return _load_data(run, run.locate(run.config.data))


def _load_data(run: workdir.Run, settings: Data) -> data.Dataset:
    try:
        dataset = data.load(settings)
    except UserError as error:
        if not missing_paths(settings):
            raise
        raise UserError(
            f"{error}; if the data have moved, give their new place with --data"
        ) from error
    require(
        dataset.fingerprint() == run.data_fingerprint,
        f"{run.workdir} was trained on other data: {settings.name!r} has changed",
    )
    return dataset


def _restore(run: workdir.Run, checkpoint: str) -> TrainedModel:
    require_choice("checkpoint", checkpoint, ("", "last", "best"))
    with workdir.as_damaged_config(run.workdir):
        image_shape, scaling, features, fill = _parse_inputs(run.inputs)
    leave_other_gpus()
    strategy = make_inference_strategy()
    found, weights = _find_weights(run, checkpoint or run.config.checkpoint)
    with workdir.as_damaged_config(run.workdir):
        model = build_autoencoder(strategy, run.config.precision, image_shape, run.config.model)
    found.assign(weights, model_variables(model))
    return TrainedModel(run, strategy, found.step, model, scaling, features, fill)


def _find_weights(run: workdir.Run, checkpoint: str) -> tuple[Checkpoint, State]:
    """Finds a checkpoint and reads its weights, before a running training deletes it."""
    while True:
        found = run.checkpoints.find(checkpoint)
        if found is None:
            raise UserError(f"{run.workdir} holds no checkpoint")
        with contextlib.suppress(FileNotFoundError):
            return found, found.weights()


def _parse_inputs(
    inputs: Mapping[str, list],
) -> tuple[tuple[int, ...], data.Scaling | None, data.Features | None, np.ndarray | None]:
    """Reads the shape, scaling, features and fill of `Dataset.inputs`."""
    try:
        shape = tuple(operator.index(side) for side in inputs["image_shape"])
        features = data.Features.from_inputs(inputs)
        scaling = data.scaling_of(inputs)
        fill = np.array(inputs["fill"], np.float64) if "fill" in inputs else None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"its inputs cannot be read ({type(error).__name__}: {error})") from error
    columns = [*vars(scaling).values()] if scaling else []
    columns += [] if fill is None else [fill]
    fits = len(shape) in (1, 3) and min(shape) > 0
    fits = fits and (features is None or len(features.names) == shape[0])
    require(
        fits and all(column.shape == shape for column in columns),
        f"its inputs do not fit image_shape={list(shape)}",
    )
    return shape, scaling, features, fill
