"""Finds the devices of a strategy, and reports memory that is too small."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from trainer.data.memory import require_fits, total_bytes
from trainer.distribution.forks import require_no_fork
from trainer.distribution.gpus import check_gpus
from trainer.errors import UserError, require

_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Devices:
    """Counts the devices of one kind, "CPU" or "GPU"."""

    kind: str
    count: int

    def __str__(self) -> str:
        return f"{self.kind} x {self.count}"


def check_devices(name: str, workers: int) -> Devices:
    """Returns the devices of a strategy on this machine, without starting the strategy.

    Raises:
      UserError: the strategy does not fit the number of workers, or TensorFlow cannot use a GPU, or
        hangs in this process.
    """
    require_no_fork()
    kind, _, count = name.partition(":")
    require(
        kind != "multi_worker" or workers > 1,
        "strategy='multi_worker' needs TF_CONFIG to name several workers; launch/ sets it",
    )
    require(
        kind != "mirrored" or workers == 1,
        f"strategy='mirrored' is for one machine, but TF_CONFIG names {workers} workers; "
        "strategy=auto uses all of them",
    )
    if kind == "cpu":
        return Devices("CPU", int(count))
    gpus = check_gpus()
    return Devices("GPU", gpus) if gpus else Devices("CPU", 1)


def describe_devices(strategy: tf.distribute.Strategy) -> str:
    """Returns the kind and number of the devices of all workers, such as "CPU x 2"."""
    kind = tf.DeviceSpec.from_string(strategy.extended.worker_devices[0]).device_type
    return str(Devices(kind, strategy.num_replicas_in_sync))


def on_gpus(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether the replicas are on GPUs."""
    return describe_devices(strategy).startswith("GPU")


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Raises UserError, which names what does not fit, where a device has too little memory."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        tensor = re.search(r"tensor with shape\[[\d,]*\] and type \w+", str(error))
        raise UserError(
            f"the memory is too small{f' for a {tensor[0]}' if tensor else ''}; a smaller "
            "model or batch_size takes less"
        ) from error


@contextlib.contextmanager
def parameters_within_memory(strategy: tf.distribute.Strategy, numbers_each: int) -> Iterator[None]:
    """Raises UserError before a variable is made whose model takes more than this machine's memory.

    `numbers_each` counts the float32 numbers kept for each parameter, itself among them. A GPU
    refuses by itself, at once.
    """
    replicas = len(strategy.extended.worker_devices)
    memory_bytes = math.inf if on_gpus(strategy) else total_bytes()
    parameters = 0

    def count(create, **arguments):
        nonlocal parameters
        initial = arguments["initial_value"]
        with tf.Graph().as_default():  # in which nothing takes memory
            try:
                parameters += math.prod(np.shape(initial() if callable(initial) else initial))
            except (OverflowError, TypeError, ValueError):  # more than an int64 counts
                parameters += 2**63
        require_fits(
            f"a model of at least {parameters:,.0f} parameters, with what training keeps for each,",
            parameters * _FLOAT_BYTES * numbers_each * replicas,
            memory_bytes,
            "a smaller model takes less",
        )
        return create(**arguments)

    with tf.variable_creator_scope(count):
        yield
