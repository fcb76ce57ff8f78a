"""This trainer: its pipeline and its steps with the settings of `configs/`."""

import importlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.nets import IMAGE_SHAPE
from benchmarks.sides import clock
from trainer import models
from trainer.config import parse
from trainer.data.batches import training_batches
from trainer.data.memory import aligned_empty
from trainer.distribution.strategy import build_model, enable_determinism, make_strategy
from trainer.distribution.workers import Workers
from trainer.distribution.xla import candidate_executions
from trainer.training.setup import make_steps

_STEPS_A_CALL = 100
_IMAGES_A_CALL = 16_384
_MAX_STEPS_A_GPU_CALL = 1000
_MAX_BYTES_A_GPU_CALL = 64 * 2**20  # of the numbers of a call's examples
_GPU_CALL_SECONDS = 0.5
_NUMBER_BYTES = 4


def measure(way: str, net: str, batch_size: int, seconds: float) -> float:
    """Images per second of `trainer`, or of one of its executions where the way names it."""
    images = aligned_empty((clock.IMAGES, *IMAGE_SHAPE))
    images[:] = clock.images()
    training = Training(net, batch_size, images, execution=way.partition("_")[2])
    return training.rate(seconds)


class Training:
    """The training of a net, a call of steps at a time."""

    def __init__(
        self,
        net: str,
        batch_size: int,
        images: np.ndarray,
        *,
        execution: str = "",
        cpu_strategy: str = "cpu:1",
        changes: Mapping[str, Any] | None = None,
    ):
        """Takes images uint8 [N, 28, 28, 1], and an execution unless it is the trainer's choice.

        `changes` are keys of the net's config, as `{"precision": "bfloat16"}`.
        """
        config = importlib.import_module(f"configs.{net}").get_config()
        config.update_from_flattened_dict({"batch_size": batch_size} | dict(changes or {}))
        keras.utils.set_random_seed(config.seed)
        if config.deterministic:
            enable_determinism()
        on_gpus = bool(tf.config.list_physical_devices("GPU"))
        workers = Workers(make_strategy("auto" if on_gpus else cpu_strategy))
        strategy = workers.strategy
        model = build_model(
            strategy, config.precision, lambda: models.create(IMAGE_SHAPE, parse(config).model)
        )
        self.steps = make_steps(config, workers, model, last_step=10**6)
        self.steps.cache_on_device(images)
        self.steps.set_execution(execution or candidate_executions(strategy, model, batch_size)[0])
        self._batch_size = batch_size
        self._most = max(1, min(_STEPS_A_CALL, _IMAGES_A_CALL // batch_size))
        self._count = self._most
        if on_gpus:
            number_bytes = batch_size * _NUMBER_BYTES
            self._most = max(1, min(_MAX_STEPS_A_GPU_CALL, _MAX_BYTES_A_GPU_CALL // number_bytes))
        batches = training_batches(
            *(images, self._ranges(), self._most, batch_size, config.seed),
            as_indices=self.steps.images_on_device,
        )
        self._calls = batches.as_numpy_iterator()

    @property
    def images_a_call(self) -> int:
        """The images that the next calls train on."""
        return self._count * self._batch_size

    def call(self) -> np.ndarray:
        """Trains on `images_a_call` images; returns the loss of each step."""
        first, count, drawn = next(self._calls)
        return self.steps.train(first, drawn, count)["loss"]

    def rate(self, seconds: float) -> float:
        """Images per second over so many seconds, once compiled."""
        if self._most > self._count:
            self._lengthen()
        return clock.rate(self.call, self.images_a_call, seconds)

    def _lengthen(self) -> None:
        """Has calls last half a second, as a training's do, once those drawn ahead are done."""
        self.call()
        began = time.perf_counter()
        steps = len(self.call())
        fitting = int(steps * _GPU_CALL_SECONDS / (time.perf_counter() - began))
        self._count = max(steps, min(fitting, self._most))
        while len(self.call()) < self._count:
            pass

    def _ranges(self) -> Iterator[tuple[int, int]]:
        first = 0
        while True:
            count = self._count
            yield first, first + count
            first += count
