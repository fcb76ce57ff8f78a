"""A trained model, read from the workdir of its run alone."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from trainer import checkpoints, data, models, replicas, workdir
from trainer.errors import UserError, require


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with the weights of a checkpoint, and the data of its run."""

    strategy: replicas.Strategy  # that the model is on
    config: ConfigDict
    step: int  # that the checkpoint was taken at
    model: models.Autoencoder
    dataset: data.Dataset


def load(folder: Path, which: str = "last") -> Trained:
    """Reads a run's "last" or "best" checkpoint; to be called before TensorFlow's first operation.

    Raises:
      UserError: the workdir holds no run that can be read, or its data are not what they were.
    """
    run = workdir.read(folder)
    strategy = replicas.make_strategy("auto")
    checkpoint = checkpoints.find(folder / workdir.CHECKPOINTS, which)
    if checkpoint is None:
        raise UserError(f"{folder} holds no checkpoint")
    dataset = data.load(**run.config.data)
    require(
        dataset.fingerprint() == run.data_fingerprint,
        f"the data of {run.config.data.name!r} are not those that {folder} was trained on",
    )
    model = replicas.build_model(
        strategy,
        run.config.precision,
        lambda: models.create(dataset.image_shape, **run.config.model),
    )
    checkpoints.restore(checkpoint, replicas.model_variables(model))
    return Trained(strategy, run.config, checkpoint.step, model, dataset)
