"""The trainings that a child process runs for the check, and what they return for its report."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.sides import clock
from benchmarks.sides.with_trainer import Training
from trainer.config import load_config
from trainer.monitoring import goodput
from trainer.run import workdir
from trainer.train import train as train_run

_DIGITS = 1366  # training images of data.name="digits"


def train(net: str, folder: str, steps: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Train a config on digits up to a step, in a workdir that may hold its run already.

    Returns the logged losses, the SHA-256 of all weights and slots, and whether float32 products
    used TF32.
    """
    config = load_config(net)
    settings = {
        "data.name": "digits",
        "batch_size": 128,
        "num_epochs": (steps - 0.5) * 128 / _DIGITS,  # rounded up
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
        "log_every_steps": 5,
        "validate_every_steps": 0,
        "checkpoint_every_steps": 0,
        "pictures": False,
        "quiet": True,
    }
    config.update_from_flattened_dict(settings | dict(changes))
    began = time.perf_counter()
    train_run(config, folder)
    run = workdir.read(Path(folder))
    rows = [row for row in run.log.rows() if row["split"] == "train"]
    return {
        "seconds": time.perf_counter() - began,
        "losses": [row["loss"] for row in rows],
        "sha256": _digest(run),
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "execution": next(iter(run.executions.values())),
    }


def replicas(net: str, batch_size: int, steps: int, cpu_devices: int) -> dict[str, Any]:
    """Train some steps on all devices, and say what each of them holds then.

    Returns the device of each copy of the training images, the names of variables that differ
    between the replicas, and the losses.
    """
    training = Training(net, batch_size, clock.images(), cpu_strategy=f"cpu:{cpu_devices}")
    images = training.steps.image_devices()
    losses: list[float] = []
    while len(losses) < steps:
        losses += training.call().tolist()
    differing = [
        name for name, variable in training.steps.variables().items() if not _alike(variable)
    ]
    return {"images": images, "differing": differing, "losses": losses[:steps]}


def rate(
    net: str, batch_size: int, seconds: float, cpu_devices: int = 1, precision: str = "float32"
) -> float:
    """Return images per second while training on all devices."""
    strategy = f"cpu:{cpu_devices}"
    changes = {"precision": precision}
    training = Training(net, batch_size, clock.images(), cpu_strategy=strategy, changes=changes)
    return training.rate(seconds)


def logged_rate(net: str, folder: str, steps: int, changes: Mapping[str, Any]) -> dict[str, float]:
    """Return images per second of wall time of a whole training, and the share its steps have.

    The start-up, the compilation, validations and checkpoints do not count.
    """
    config = load_config(net)
    config.update_from_flattened_dict(
        {
            "data.name": f"noise:{clock.IMAGES}",
            "batch_size": 128,
            "num_epochs": (steps - 0.5) * 128 / clock.IMAGES,
            "validate_every_steps": 0,
            "checkpoint_every_steps": 0,
            "pictures": False,
            "quiet": True,
        }
        | dict(changes)
    )
    train_run(config, folder)
    seconds = json.loads((Path(folder) / goodput.FILE).read_text())["seconds"]
    rows = [row for row in workdir.read(Path(folder)).log.rows() if row["split"] == "train"]
    wall = sum(seconds[cause] for cause in ("steps", "data", "other"))
    return {
        "images_per_second": (rows[-1]["step"] - rows[0]["step"]) * 128 / wall,
        "steps_share": seconds["steps"] / wall,
    }


def _digest(run: workdir.Run) -> str:
    """Return the SHA-256 of a run's newest checkpoint: names, shapes, types and bytes."""
    checkpoint = run.checkpoints.find()
    assert checkpoint is not None
    digest = hashlib.sha256()
    for name, array in sorted(checkpoint.state().items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _alike(variable: Any) -> bool:
    """Return whether all replicas hold the same bits of a variable."""
    first, *others = (copy.numpy().tobytes() for copy in _copies(variable))
    return all(other == first for other in others)


def _copies(variable: Any) -> tuple[Any, ...]:
    """Return each replica's own copy of a Keras variable."""
    return getattr(variable.value, "values", (variable.value,))
