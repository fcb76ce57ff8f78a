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


def test_a_schedule_warms_up_in_a_line_and_stays_constant_or_falls_as_a_cosine():
    warm = rates("constant", [0, 1, 2, 3, 4, 99], warmup_steps=3)
    np.testing.assert_allclose(warm, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)
    expected = [0.4, 0.4 * (1 + math.cos(math.pi / 4)) / 2, 0.2, 0.0]
    np.testing.assert_allclose(rates("cosine", [0, 25, 50, 100]), expected, atol=1e-7)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adadelta"])
def test_every_optimizer_descends_and_decays_the_weights_if_asked(name):
    for weight_decay in (0.0, 0.01):
        variables = [tf.keras.Variable(1.0), tf.keras.Variable(1.0)]
        optimizer = optimizers.create(name, clip_norm=1.0, weight_decay=weight_decay)
        optimizer.build(variables)
        slots = len(optimizer.variables) - len(["iterations", "learning_rate"])
        assert slots == optimizers.SLOTS[name] * len(variables)
        optimizer.learning_rate.assign(0.1)
        optimizer.apply([tf.constant(1.0), tf.constant(0.0)], variables)
        assert float(variables[0]) < 1.0
        assert (float(variables[1]) < 1.0) == (weight_decay > 0)


def test_the_first_step_of_adam_is_the_rate_shrunk_by_epsilon():
    # m / (1 - beta_1) = g and v / (1 - beta_2) = g^2, whatever the betas: the step is
    # rate * g / (g + epsilon), but for Keras's epsilon, which is not corrected for the bias.
    gradient = 1e-6
    for epsilon, beta_2 in ((1e-7, 0.999), (1e-12, 0.999), (1e-7, 0.9)):
        variable = tf.keras.Variable(0.0)
        settings = {"beta_1": 0.5, "beta_2": beta_2, "epsilon": epsilon}
        optimizer = optimizers.create("adam", clip_norm=0.0, weight_decay=0.0, **settings)
        optimizer.build([variable])
        optimizer.learning_rate.assign(0.1)
        optimizer.apply([tf.constant(gradient)], [variable])
        share = gradient / (gradient + epsilon / math.sqrt(1 - beta_2))
        np.testing.assert_allclose(float(variable), -0.1 * share, rtol=1e-4)


def make(name="adam", clip_norm=0.0, weight_decay=0.0, schedule="constant", **settings):
    optimizers.create(name, clip_norm=clip_norm, weight_decay=weight_decay)
    usual = {"learning_rate": 0.1, "warmup_steps": 0, "last_step": 10}
    optimizers.learning_rate_schedule(schedule, **usual | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adma"}, "optimizer.name='adma' is not known; allowed: adam"),
        ({"clip_norm": -1.0}, "optimizer.clip_norm=-1.0"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay=-1.0"),
        ({"schedule": "linear"}, "optimizer.schedule='linear' is not known; allowed: constant"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate=-1.0"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps=-1"),
    ],
)
def test_impossible_optimizers_and_schedules_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)
