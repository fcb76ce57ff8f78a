import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.distribution import optimizers
from trainer.errors import UserError


def rates(name, steps, warmup_steps=0):
    schedule = optimizers.learning_rate_schedule(
        name, learning_rate=0.4, warmup_steps=warmup_steps, last_step=100
    )
    return [float(schedule(tf.constant(step, tf.int64))) for step in steps]


def test_constant_stays():
    np.testing.assert_allclose(rates("constant", [0, 50, 99]), 0.4)


def test_cosine_falls_from_the_rate_to_0():
    expected = [0.4, 0.4 * (1 + math.cos(math.pi / 4)) / 2, 0.2, 0.0]
    np.testing.assert_allclose(rates("cosine", [0, 25, 50, 100]), expected, atol=1e-7)


def test_warm_up_rises_in_a_line():
    warm = rates("constant", [0, 1, 2, 3, 4, 50], warmup_steps=3)
    np.testing.assert_allclose(warm, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adadelta"])
def test_every_optimizer_descends(name, weight_decay):
    variable = tf.keras.Variable(1.0)
    optimizer = optimizers.create(name, clip_norm=1.0, weight_decay=weight_decay)
    optimizer.learning_rate.assign(0.1)
    optimizer.apply([tf.constant(1.0)], [variable])
    assert float(variable) < 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adma"}, "optimizer.name='adma' is not known; allowed: adam"),
        ({"clip_norm": -1.0}, "optimizer.clip_norm=-1.0"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay=-1.0"),
    ],
)
def test_impossible_optimizers_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        optimizers.create(**{"name": "adam", "clip_norm": 0.0, "weight_decay": 0.0} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "linear"}, "optimizer.schedule='linear' is not known; allowed: constant"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate=-1.0"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps=-1"),
    ],
)
def test_impossible_schedules_are_refused(settings, message):
    usual = {"name": "constant", "learning_rate": 0.1, "warmup_steps": 0, "last_step": 10}
    with pytest.raises(UserError, match=message):
        optimizers.learning_rate_schedule(**usual | settings)
