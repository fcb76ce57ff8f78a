import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.distribution.noisy_steps import BATCH, SHAPE, images_like, make_steps
from tests.marks import slow
from trainer.config import Optimizer, load_config, parse
from trainer.distribution import optimizers
from trainer.distribution.strategy import make_strategy


def rates(name, steps, warmup_steps=0, **settings):
    schedule = optimizers.learning_rate_schedule(
        name, learning_rate=0.4, warmup_steps=warmup_steps, last_step=100, **settings
    )
    return [float(schedule(tf.constant(step, tf.int64))) for step in steps]


def test_a_schedule_warms_up_in_a_line_and_stays_constant_or_falls_as_a_cosine():
    warm = rates("constant", [0, 1, 2, 3, 4, 99], warmup_steps=3)
    np.testing.assert_allclose(warm, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)
    expected = [0.4, 0.4 * (1 + math.cos(math.pi / 4)) / 2, 0.2, 0.0]
    np.testing.assert_allclose(rates("cosine", [0, 25, 50, 100]), expected, atol=1e-7)


def test_a_schedule_falls_to_its_final_share_in_a_line_a_cosine_or_by_equal_factors():
    for name, expected in (
        ("linear", [0.4, 0.31, 0.22, 0.04]),
        ("cosine", [0.4, 0.04 + 0.18 * (1 + math.cos(math.pi / 4)), 0.22, 0.04]),
        ("exponential", [0.4, 0.4 * 0.1**0.25, 0.4 * 0.1**0.5, 0.04]),
    ):
        np.testing.assert_allclose(
            rates(name, [0, 25, 50, 100], final_share=0.1), expected, rtol=1e-6
        )
    np.testing.assert_allclose(rates("linear", [0, 50, 100]), [0.4, 0.2, 0.0], rtol=1e-6)
    warm = rates("linear", [0, 1, 2], warmup_steps=2)
    np.testing.assert_allclose(warm, [0.4 / 3, 0.396 * 2 / 3, 0.392], rtol=1e-6)


def test_a_step_schedule_changes_the_rate_at_each_boundary_and_warms_up():
    boundaries = [(4, 0.5), (10, 0.125)]
    expected = [0.4, 0.4, 0.2, 0.2, 0.05, 0.05]
    np.testing.assert_allclose(
        rates("step", [0, 3, 4, 9, 10, 99], boundaries=boundaries), expected, rtol=1e-6
    )
    warm = rates("step", [0, 4, 7, 8], warmup_steps=7, boundaries=boundaries)
    np.testing.assert_allclose(warm, [0.05, 0.125, 0.2, 0.2], rtol=1e-6)


def test_the_schedule_of_burda_et_al_can_be_written_in_a_config():
    # 3^i epochs at 1e-3 * 10^(-i / 7), i from 0 to 7; 5 steps are an epoch.
    epochs = [3.0**i for i in range(8)]
    config = load_config("dense")
    config.update({"num_epochs": sum(epochs), "batch_size": 20})
    config.optimizer.schedule = "step"
    config.optimizer.boundaries_epochs = tuple(np.cumsum(epochs)[:-1].tolist())
    config.optimizer.boundary_factors = tuple(10 ** (-i / 7) for i in range(1, 8))
    parsed = parse(config)
    factors = parsed.optimizer.boundary_factors
    schedule = optimizers.learning_rate_schedule(
        "step",
        learning_rate=1e-3,
        warmup_steps=0,
        last_step=parsed.last_step(100),
        boundaries=list(zip(parsed.boundaries_steps(100), factors, strict=True)),
    )
    expected = np.repeat([1e-3 * 10 ** (-i / 7) for i in range(8)], [5 * 3**i for i in range(8)])
    assert parsed.last_step(100) == len(expected)
    steps = tf.range(len(expected), dtype=tf.int64)
    np.testing.assert_allclose(tf.vectorized_map(schedule, steps), expected, rtol=1e-6)


NAMED = [(name, 0.0) for name in ("adam", "adamw", "sgd", "rmsprop", "adadelta")] + [("sgd", 0.9)]


@pytest.mark.parametrize(("name", "momentum"), NAMED)
@pytest.mark.parametrize("loss_scale_growth_steps", [None, 9])
def test_each_weight_has_its_own_slots_which_are_0_at_first(
    name, momentum, loss_scale_growth_steps
):
    strategy = make_strategy("cpu:1")
    with strategy.scope():
        weights = [keras.Variable(np.ones((3, 2)), name=path) for path in ("code", "other_code")]
    settings = Optimizer(name=name, momentum=momentum)
    optimizer = optimizers.build(
        lambda: optimizers.create(settings),
        strategy,
        weights,
        loss_scale_growth_steps,
    )
    slots = [optimizers.slots_of(optimizer, weight) for weight in weights]
    count = optimizers.count_slots(settings)
    assert [len(some) for some in slots] == [count, count]
    assert len({id(slot) for slot in slots[0] + slots[1]}) == 2 * count
    assert not any(np.any(slot) for slot in slots[0] + slots[1])


@pytest.mark.parametrize(("devices", "execution"), [(1, "graph"), (1, "xla"), slow(2, "xla")])
def test_training_steps_take_the_rates_of_their_schedule(devices, execution):
    images = images_like(6, BATCH, *SHAPE)
    for name, settings in (
        ("step", {"boundaries": [(3, 0.5), (5, 0.125)]}),
        ("exponential", {"final_share": 0.01}),
    ):
        schedule = optimizers.learning_rate_schedule(
            name, learning_rate=0.01, warmup_steps=1, last_step=6, **settings
        )
        _, steps = make_steps(devices, execution, learning_rate=schedule)
        taken = [steps.train(k, images[k : k + 3])["learning_rate"] for k in (0, 3)]
        expected = [float(schedule(tf.constant(step, tf.int64))) for step in range(6)]
        np.testing.assert_allclose(np.concatenate(taken), expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "momentum"), NAMED)
def test_every_optimizer_descends_and_decays_the_weights_if_asked(name, momentum):
    for weight_decay in (0.0, 0.01):
        variables = [tf.keras.Variable(1.0), tf.keras.Variable(1.0)]
        settings = Optimizer(name=name, clip_norm=1.0, weight_decay=weight_decay, momentum=momentum)
        optimizer = optimizers.create(settings)
        optimizer.build(variables)
        slots = len(optimizer.variables) - len(["iterations", "learning_rate"])
        assert slots == optimizers.count_slots(settings) * len(variables)
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
        settings = Optimizer(name="adam", beta_1=0.5, beta_2=beta_2, epsilon=epsilon)
        optimizer = optimizers.create(settings)
        optimizer.build([variable])
        optimizer.learning_rate.assign(0.1)
        optimizer.apply([tf.constant(gradient)], [variable])
        share = gradient / (gradient + epsilon / math.sqrt(1 - beta_2))
        np.testing.assert_allclose(float(variable), -0.1 * share, rtol=1e-4)


def test_the_steps_of_sgd_add_their_momentum():
    # Of a constant gradient g, step n is -rate * g * (1 + m + ... + m**(n - 1)).
    variable = tf.keras.Variable(0.0)
    optimizer = optimizers.create(Optimizer(name="sgd", momentum=0.5))
    optimizer.build([variable])
    optimizer.learning_rate.assign(0.1)
    for expected in (-0.1, -0.25, -0.425):
        optimizer.apply([tf.constant(1.0)], [variable])
        np.testing.assert_allclose(float(variable), expected, rtol=1e-6)
