"""A trained model, read from the workdir of its run alone."""

import dataclasses
import operator
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from trainer import data, models, settings
from trainer.distribution.strategy import (
    Strategy,
    build_model,
    leave_other_gpus,
    make_inference_strategy,
)
from trainer.distribution.variables import model_variables
from trainer.errors import UserError, require
from trainer.run import checkpoints, workdir
from trainer.storage import paths


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model with the weights of a checkpoint; needs none of the data of its run."""

    strategy: Strategy  # that the model is on
    config: ConfigDict
    step: int  # that the checkpoint was taken at
    model: models.Autoencoder
    scaling: data.Scaling | None  # from a user's vectors to those that the model sees
    feature_names: tuple[str, ...]  # of the columns of a table, in the model's order
    fill: np.ndarray | None  # float64 [D], in a user's units, what stands for missing numbers


@dataclasses.dataclass(frozen=True)
class Trained(TrainedModel):
    """The same, with the data of its run."""

    dataset: data.Dataset


def load_model(folder: str | Path, which: str = "last") -> TrainedModel:
    """Reads a run's "last" or "best" checkpoint; to be called before TensorFlow's first operation.

    Raises:
      UserError: the workdir holds no run that can be read.
    """
    path = paths.path_of(folder)
    return _model_of(workdir.read(path), path, which)


def load(folder: str | Path, which: str = "last") -> Trained:
    """Reads a run's checkpoint as `load_model` does, and its data.

    Raises:
      UserError: as `load_model`, or its data are not what they were.
    """
    path = paths.path_of(folder)
    run = workdir.read(path)
    with workdir.of_another_version(path / workdir.CONFIG):
        settings.check_data(run.config.data)
    model = _model_of(run, path, which)
    dataset = data.load(run.config.data)
    require(
        dataset.fingerprint() == run.data_fingerprint,
        f"the data of {run.config.data.name!r} are not those that {path} was trained on",
    )
    return Trained(**vars(model), dataset=dataset)


def _model_of(run: workdir.Run, folder: Path, which: str) -> TrainedModel:
    if run.inputs is None:
        raise UserError(
            f"{folder / workdir.CONFIG} does not say what the inputs are like: the run is older; "
            "start its training once more, with the same command, to have it noted"
        )
    try:
        image_shape, scaling, feature_names, fill = _described(run.inputs)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / workdir.CONFIG} is damaged: its inputs are none that a training writes "
            f"({type(error).__name__}: {error}); start its training once more, with the same "
            "command, to have them noted"
        ) from error
    leave_other_gpus()
    strategy = make_inference_strategy()
    checkpoint = checkpoints.find(folder / workdir.CHECKPOINTS, which, run_id=run.run_id)
    if checkpoint is None:
        raise UserError(f"{folder} holds no checkpoint")
    with workdir.of_another_version(folder / workdir.CONFIG):
        model = build_model(
            strategy,
            run.config.precision,
            lambda: models.create(image_shape, **run.config.model),
        )
    checkpoints.restore(checkpoint, model_variables(model))
    return TrainedModel(
        strategy,
        run.config,
        checkpoint.step,
        model,
        scaling,
        feature_names,
        fill,
    )


def _described(
    inputs: Mapping[str, list],
) -> tuple[tuple[int, ...], data.Scaling | None, tuple[str, ...], np.ndarray | None]:
    """The shape of an input, and what `TrainedModel` knows of its columns."""
    shape = tuple(operator.index(side) for side in inputs["image_shape"])
    names = tuple(inputs.get("feature_names", ()))
    scaling = data.scaling_of(inputs)
    fill = np.array(inputs["fill"], np.float64) if "fill" in inputs else None
    columns = [*vars(scaling).values()] if scaling else []
    columns += [] if fill is None else [fill]
    fitting = len(shape) in (1, 3) and min(shape) > 0 and len(names) in (0, *shape[:1])
    if not fitting or any(column.shape != shape for column in columns):
        raise ValueError(f"image_shape is {list(shape)}, which the others do not fit")
    return shape, scaling, names, fill
