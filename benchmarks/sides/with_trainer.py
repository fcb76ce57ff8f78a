"""This trainer: its pipeline and its steps with the settings of `configs/`."""

import importlib
import itertools

import keras
import tensorflow as tf

from benchmarks.nets import IMAGE_SHAPE
from benchmarks.sides import clock
from trainer import data, models, replicas
from trainer.train import make_steps

WAYS = ("trainer", "trainer_graph", "trainer_xla_update", "trainer_xla", "trainer_xla_products")
_STEPS_A_CALL = 100
_IMAGES_A_CALL = 16_384


def measure(
    way: str, net: str, batch_size: int, seconds: float, strategy_name: str = "cpu:1"
) -> float:
    """Images per second of `trainer`, or of one of its executions where the way names it."""
    config = importlib.import_module(f"configs.{net}").get_config()
    config.batch_size = batch_size
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    name = "auto" if tf.config.list_physical_devices("GPU") else strategy_name
    strategy = replicas.make_strategy(name)
    model = replicas.build_model(
        strategy, config.precision, lambda: models.create(IMAGE_SHAPE, **config.model)
    )
    steps = make_steps(config, strategy, model, last_step=10**6)
    images = data.empty((clock.IMAGES, *IMAGE_SHAPE))
    images[:] = clock.images()
    steps.place(images)
    _, _, execution = way.partition("_")
    steps.execute(execution or replicas.executions(strategy, model)[0])

    count = min(_STEPS_A_CALL, _IMAGES_A_CALL // batch_size)
    ranges = ((first, first + count) for first in itertools.count(step=count))
    batches = data.batches(images, ranges, count, batch_size, config.seed, numbers=True)
    calls = batches.as_numpy_iterator()

    def train() -> None:
        first, count, drawn = next(calls)
        steps.train(first, drawn, count)

    return clock.rate(train, count * batch_size, seconds)
