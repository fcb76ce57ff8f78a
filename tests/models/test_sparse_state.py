"""The sparse kind's state: how long units have been idle, and what brings dead units back."""

import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import load_config, tiny
from tests.distribution.noisy_steps import assert_close, images_like, weights_of
from tests.models import small
from tests.runs import assert_a_stop_changes_no_bit, final_state, logged
from tests.steps import adam_steps

SHAPE = (6, 6, 1)
BATCH = 8
AUXILIARY = {
    "code_size": 60,
    "active_units": 5,
    "first_active_units": 5,
    "output_activation": "linear",
    "auxiliary_weight": 0.5,
    "auxiliary_units": 4,
    "dead_after_steps": 3,
}


def create(**settings):
    return small.create("sparse", SHAPE, **AUXILIARY | settings)


def one_image(count):
    """The same image in so many steps, of which units are dead soon."""
    return np.repeat(images_like(1, 1, *SHAPE), count * BATCH, 0).reshape(count, BATCH, *SHAPE)


@pytest.mark.parametrize("tied", [False, True])
def test_the_largest_dead_activations_learn_the_residual(tied):
    model = create(tied_weights=tied)
    images = tf.constant(small.images_like(BATCH, SHAPE))
    dead = np.arange(60) % 2 == 0
    model.idle_steps.assign(np.where(dead, 3, 2))
    code = model.encoder.get_layer("code")
    variables = [code.bias, model.decoder.get_layer("logits").bias]
    with tf.GradientTape() as tape:
        term = model.loss_terms(images, small.context(BATCH))["auxiliary"]
        total = tf.reduce_sum(term)
    activations = model.encoder(images).numpy()
    residual = images.numpy() - model.decoder(model.encode(images)).numpy()
    residual = residual.reshape(BATCH, -1)
    helping = np.argsort(np.where(dead, -activations, np.inf), axis=1, kind="stable")[:, :4]
    kernel = code.kernel.numpy().T if tied else model.decoder.get_layer("logits").kernel.numpy()
    guess = np.stack([activations[b, helping[b]] @ kernel[helping[b]] for b in range(BATCH)])
    expected = 0.5 * np.square(residual - guess).mean(axis=1)
    np.testing.assert_allclose(term, expected, rtol=1e-4)
    of_code, of_logits = tape.gradient(total, variables)
    changed = np.flatnonzero(of_code)
    assert set(changed) == set(helping.ravel())  # no unit that is alive
    assert of_logits is None or not np.any(of_logits)


def test_without_dead_units_and_in_evaluation_there_is_nothing_to_add():
    model, images = create(), small.images_like(BATCH, SHAPE)
    assert not np.any(model.loss_terms(images, small.context(BATCH))["auxiliary"])
    model.idle_steps.assign(np.full(60, 3))
    assert np.all(model.loss_terms(images, small.context(BATCH))["auxiliary"] > 0)
    assert "auxiliary" not in model.loss_terms(images, small.context(BATCH, training=False))


@pytest.mark.parametrize(
    ("devices", "execution", "precision"),
    [
        (1, "graph", "float32"),
        (1, "xla", "bfloat16"),
        (1, "xla_update", "float16"),
        (2, "graph", "float32"),
        (2, "xla", "float32"),
    ],
)
def test_a_unit_is_idle_in_the_steps_since_an_example_of_the_global_batch_kept_it(
    devices, execution, precision
):
    images = images_like(3, BATCH, *SHAPE)
    kept = []
    model, steps = adam_steps(create, devices, execution, precision=precision, learning_rate=0.0)
    for batch in images:
        activations = model.encoder(batch / np.float32(255)).numpy()
        kept.append((activations >= np.sort(activations)[:, -5:-4]).any(axis=0))
    idle_steps = np.zeros(60)
    for units in kept:
        idle_steps = np.where(units, 0, idle_steps + 1)
    steps.train(0, images)
    np.testing.assert_array_equal(model.idle_steps, idle_steps)
    steps.evaluate(images[0])
    np.testing.assert_array_equal(model.idle_steps, idle_steps)
    assert set(idle_steps) > {0, 3}


@pytest.mark.parametrize("execution", ["graph", "xla"])
def test_many_replicas_bring_dead_units_back_as_one_does(execution):
    images = one_image(8)
    (_, one), (_, many) = (adam_steps(create, n, execution) for n in (1, 2))
    metrics = one.train(0, images)
    assert np.all(metrics["loss/auxiliary"][:3] == 0) and np.all(metrics["loss/auxiliary"][3:] > 0)
    assert_close(many.train(0, images), metrics)
    assert_close(weights_of(many), weights_of(one))


def test_dead_units_come_back():
    images = images_like(1, BATCH, *SHAPE).repeat(60, 0)
    dead = {}
    for weight in (1e-9, 1.0):
        model, steps = adam_steps(lambda w=weight: create(auxiliary_weight=w), learning_rate=1e-2)
        steps.train(0, images)
        dead[weight] = np.mean(np.asarray(model.idle_steps) >= 3)
    assert dead[1.0] < dead[1e-9]


def test_a_step_that_float16_skips_counts_for_no_unit():
    model, steps = adam_steps(create, 2, precision="float16")
    steps.optimizer.dynamic_scale.assign(2.0**126)
    images = one_image(2)
    assert steps.train(0, images[:1])["skipped_steps"][0] == 1
    assert not np.any(model.idle_steps)
    steps.optimizer.dynamic_scale.assign(1.0)
    assert steps.train(1, images[1:])["skipped_steps"][0] == 0
    assert np.any(model.idle_steps)


def test_a_stop_leaves_no_trace_in_what_is_counted(tmp_path, monkeypatch):
    config = load_config("sparse")
    config.model.update(tiny("sparse") | {"auxiliary_weight": 0.1, "dead_after_steps": 2})
    config.data.update({"name": "digits", "resplit_test": 0.0})
    config.update({"batch_size": 8, "num_epochs": 6 * 8 / 1366, "execution": "graph"})
    config.update({"steps_per_call": 1, "log_every_steps": 1})
    assert_a_stop_changes_no_bit(config, tmp_path, monkeypatch, calls=3, step=3)
    rows = [row for row in logged(tmp_path / "stopped") if row["split"] == "train"]
    assert [row["loss/auxiliary"] > 0 for row in rows] == [False, False, *[True] * 4]
    assert np.any(final_state(tmp_path / "stopped")[1]["model/idle_steps"])
