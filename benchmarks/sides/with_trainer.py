"""This trainer: its pipeline and its steps with the settings of `configs/`."""

import importlib
import itertools

import keras
import numpy as np
import tensorflow as tf

from benchmarks.nets import IMAGE_SHAPE
from benchmarks.sides import clock
from trainer import data, models
from trainer.distribution.strategy import build_model, make_strategy
from trainer.distribution.xla import candidate_executions
from trainer.examples import empty
from trainer.train import make_steps
from trainer.workers import Workers

WAYS = ("trainer", "trainer_graph", "trainer_xla_update", "trainer_xla", "trainer_xla_products")
_STEPS_A_CALL = 100
_IMAGES_A_CALL = 16_384


def measure(way: str, net: str, batch_size: int, seconds: float) -> float:
    """Images per second of `trainer`, or of one of its executions where the way names it."""
    images = empty((clock.IMAGES, *IMAGE_SHAPE))
    images[:] = clock.images()
    training = Training(net, batch_size, images, execution=way.partition("_")[2])
    return clock.rate(training.call, training.images_a_call, seconds)


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
    ):
        """Takes images uint8 [N, 28, 28, 1], and an execution unless it is the trainer's choice."""
        config = importlib.import_module(f"configs.{net}").get_config()
        config.batch_size = batch_size
        keras.utils.set_random_seed(config.seed)
        if config.deterministic:
            tf.config.experimental.enable_op_determinism()
        on_gpus = tf.config.list_physical_devices("GPU")
        workers = Workers(make_strategy("auto" if on_gpus else cpu_strategy))
        strategy = workers.strategy
        model = build_model(
            strategy, config.precision, lambda: models.create(IMAGE_SHAPE, **config.model)
        )
        self.steps = make_steps(config, workers, model, last_step=10**6)
        self.steps.cache_on_device(images)
        self.steps.set_execution(execution or candidate_executions(strategy, model, batch_size)[0])
        count = max(1, min(_STEPS_A_CALL, _IMAGES_A_CALL // batch_size))
        ranges = ((first, first + count) for first in itertools.count(step=count))
        batches = data.batches(
            images, ranges, count, batch_size, config.seed, numbers=self.steps.images_on_device
        )
        self._calls = batches.as_numpy_iterator()
        self.images_a_call = count * batch_size

    def call(self) -> None:
        """Trains on `images_a_call` images."""
        first, count, drawn = next(self._calls)
        self.steps.train(first, drawn, count)
