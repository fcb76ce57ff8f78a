"""Runs the trainings of the check in a child process, and returns results for the report."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.gpu_check.plan import UNINTERRUPTED
from benchmarks.sides import clock
from benchmarks.sides.with_trainer import Training
from trainer.config import load_config
from trainer.monitoring import goodput
from trainer.run.workdir import Run, read
from trainer.training.train import train as train_run

_BATCH_SIZE = 128
_DIGITS = 1366  # training images of data.name="digits"


def train(net: str, workdir: str, steps: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Trains a config on digits by Adam up to a step, in a workdir that may hold its run already.

    Returns the seconds, the logged losses, the SHA-256 of all weights and slots, the execution, and
    whether float32 products used TF32.
    """
    settings = {
        "data.name": "digits",
        "log_every_steps": 5,
        "optimizer.name": "adam",
        "optimizer.momentum": 0.0,
        "optimizer.learning_rate": 1e-3,
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
        **changes,
    }
    began = time.perf_counter()
    run, rows = _train(net, workdir, steps, _DIGITS, settings)
    return {
        "seconds": time.perf_counter() - began,
        "losses": [row["loss"] for row in rows],
        "sha256": _digest(run),
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "execution": next(iter(run.executions.values())),
    }


def replicas(net: str, batch_size: int, steps: int, devices: int) -> dict[str, Any]:
    """Trains some steps on all GPUs, or on logical CPU devices.

    Returns the device of each copy of the training images, the names of variables that differ
    between the replicas, and the losses.
    """
    training = Training(net, batch_size, clock.images(), cpu_strategy=f"cpu:{devices}")
    images = training.steps.image_devices()
    losses: list[float] = []
    while len(losses) < steps:
        losses += training.call().tolist()
    differing = [
        name for name, variable in training.steps.variables().items() if not _is_equal(variable)
    ]
    return {"images": images, "differing": differing, "losses": losses[:steps]}


def rate(
    net: str, batch_size: int, seconds: float, devices: int = 1, precision: str = "float32"
) -> float:
    """Returns images per second while training on all GPUs, or on logical CPU devices."""
    strategy, changes = f"cpu:{devices}", {"precision": precision}
    training = Training(net, batch_size, clock.images(), cpu_strategy=strategy, changes=changes)
    return training.rate(seconds)


def logged_rate(net: str, workdir: str, steps: int, changes: Mapping[str, Any]) -> dict[str, float]:
    """Returns a whole training's images per second of wall time, and the share of its steps.

    The start-up, the compilation, validations and checkpoints do not count.
    """
    settings = {"data.name": f"noise:{clock.IMAGES}"} | dict(changes)
    _, rows = _train(net, workdir, steps, clock.IMAGES, settings)
    seconds = json.loads((Path(workdir) / goodput.FILE).read_text())["seconds"]
    wall = sum(seconds[cause] for cause in ("steps", "data", "other"))
    return {
        "images_per_second": (rows[-1]["step"] - rows[0]["step"]) * _BATCH_SIZE / wall,
        "steps_share": seconds["steps"] / wall,
    }


def _train(
    net: str, workdir: str, steps: int, images: int, settings: Mapping[str, Any]
) -> tuple[Run, list[dict[str, Any]]]:
    """Trains a config for some steps on a number of images; returns the run and its logged rows."""
    config = load_config(net)
    settings = {"batch_size": _BATCH_SIZE, "quiet": True} | UNINTERRUPTED | dict(settings)
    num_epochs = (steps - 0.5) * settings["batch_size"] / images  # rounded up to `steps`
    config.update_from_flattened_dict(settings | {"num_epochs": num_epochs})
    train_run(config, workdir)
    run = read(Path(workdir))
    return run, [row for row in run.log.rows() if row["split"] == "train"]


def _digest(run: Run) -> str:
    """Returns the SHA-256 of a run's newest checkpoint: names, shapes, types and bytes."""
    newest = run.checkpoints.find()
    assert newest is not None
    digest = hashlib.sha256()
    for name, array in sorted(newest.state().items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _is_equal(variable: Any) -> bool:
    """Returns whether all replicas hold the same bits of a Keras variable."""
    copies = getattr(variable.value, "values", (variable.value,))
    first, *others = (copy.numpy().tobytes() for copy in copies)
    return all(other == first for other in others)
