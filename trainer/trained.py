"""A trained model, read from the workdir of its run alone."""

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from trainer import checkpoints, data, models, replicas, workdir
from trainer.errors import UserError, require


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model with the weights of a checkpoint; needs none of the data of its run."""

    strategy: replicas.Strategy  # that the model is on
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


def load_model(folder: Path, which: str = "last") -> TrainedModel:
    """Reads a run's "last" or "best" checkpoint; to be called before TensorFlow's first operation.

    Raises:
      UserError: the workdir holds no run that can be read.
    """
    return _model_of(workdir.read(folder), folder, which)


def load(folder: Path, which: str = "last") -> Trained:
    """Reads a run's checkpoint as `load_model` does, and its data.

    Raises:
      UserError: as `load_model`, or its data are not what they were.
    """
    run = workdir.read(folder)
    model = _model_of(run, folder, which)
    dataset = data.load(**run.config.data)
    require(
        dataset.fingerprint() == run.data_fingerprint,
        f"the data of {run.config.data.name!r} are not those that {folder} was trained on",
    )
    return Trained(**vars(model), dataset=dataset)


def _model_of(run: workdir.Run, folder: Path, which: str) -> TrainedModel:
    if run.inputs is None:
        raise UserError(
            f"{folder / workdir.CONFIG} does not say what the inputs are like: the run is older; "
            "start its training once more, with the same command, to have it noted"
        )
    strategy = replicas.make_strategy("auto")
    checkpoint = checkpoints.find(folder / workdir.CHECKPOINTS, which, run_id=run.run_id)
    if checkpoint is None:
        raise UserError(f"{folder} holds no checkpoint")
    image_shape = tuple(run.inputs["image_shape"])
    model = replicas.build_model(
        strategy,
        run.config.precision,
        lambda: models.create(image_shape, **run.config.model),
    )
    checkpoints.restore(checkpoint, replicas.model_variables(model))
    return TrainedModel(
        strategy,
        run.config,
        checkpoint.step,
        model,
        data.scaling_of(run.inputs),
        tuple(run.inputs.get("feature_names", ())),
        np.array(run.inputs["fill"]) if "fill" in run.inputs else None,
    )
