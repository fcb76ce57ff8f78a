"""Trains in this trainer, by its input pipeline and its steps, with the settings of `configs/`."""

import math
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.nets import IMAGE_SHAPE
from benchmarks.sides import clock
from trainer.config import load_config, parse
from trainer.data.batches import training_batches
from trainer.data.memory import aligned_empty
from trainer.distribution.strategy import build_autoencoder, enable_determinism, make_strategy
from trainer.distribution.workers import Workers
from trainer.distribution.xla import candidate_executions
from trainer.training.setup import make_steps
from trainer.training.steps_per_call import StepsPerCall, step_ranges

_LAST_STEP = 10**6
_INDEX_BYTES = 4  # of an image that is on the device


def measure(way: str, net: str, batch_size: int, seconds: float) -> float:
    """Returns images per second of "trainer", or of one execution, as "trainer_xla"."""
    images = aligned_empty((clock.IMAGES, *IMAGE_SHAPE))
    images[:] = clock.images()
    training = Training(net, batch_size, images, execution=way.partition("_")[2])
    return training.rate(seconds)


class Training:
    """Trains a net, a call of several steps at a time."""

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
        """Builds the training of a config on images, uint8 [N, 28, 28, 1].

        Args:
          net: the name of the config.
          batch_size: images per step.
          images: the training images, which are cached on the device if they fit.
          execution: "" for the one that the trainer takes by default.
          cpu_strategy: the strategy where there is no GPU.
          changes: values of other keys of the config, as `{"precision": "bfloat16"}`.
        """
        settings = load_config(net)
        uninterrupted = {"validate_every_steps": 0, "checkpoint_every_steps": 0}
        as_others = {"batch_size": batch_size, "augment.shift_pixels": 0}
        settings.update_from_flattened_dict(as_others | uninterrupted | dict(changes or {}))
        config = parse(settings)
        keras.utils.set_random_seed(config.seed)
        if config.deterministic:
            enable_determinism()
        on_gpus = bool(tf.config.list_physical_devices("GPU"))
        workers = Workers(make_strategy("auto" if on_gpus else cpu_strategy))
        strategy = workers.strategy
        model = build_autoencoder(strategy, config.precision, IMAGE_SHAPE, config.model)
        self.steps = make_steps(config, workers, model, _LAST_STEP)
        self.steps.cache_on_device(images)
        self.steps.set_execution(execution or candidate_executions(strategy, model, batch_size)[0])
        self.batch_size = batch_size
        on_device = self.steps.images_on_device
        image_bytes = _INDEX_BYTES if on_device else math.prod(images.shape[1:])
        self._pace = StepsPerCall(config.steps_per_call, batch_size * image_bytes)
        batches = training_batches(
            images,
            step_ranges(0, _LAST_STEP, config, self._pace),
            self._pace.max_steps,
            batch_size,
            config.seed,
            as_indices=on_device,
        )
        self._batches = batches.as_numpy_iterator()
        self._has_full_calls = False

    def call(self) -> np.ndarray:
        """Trains for as many steps as a training's next call would; returns their losses."""
        first, count, batches = next(self._batches)
        began = time.perf_counter()
        losses = self.steps.train(first, batches, count)["loss"]
        planned = self._pace.next_count(int(count), time.perf_counter() - began)
        self._pace.plan(planned)
        self._has_full_calls = planned <= count
        return losses

    def warm_up(self) -> None:
        """Compiles, and trains until the calls are as long as in a long training."""
        self.call()  # compiles, and therefore plans a short call
        self.call()
        while not self._has_full_calls:
            self.call()

    def rate(self, seconds: float) -> float:
        """Returns images per second, measured for `seconds` after the warm-up."""
        self.warm_up()
        return clock.rate(lambda: self.batch_size * len(self.call()), seconds)
