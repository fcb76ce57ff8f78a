"""The sparse kind's state: how long units have been idle, and what brings dead units back."""

import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import load_config, tiny
from tests.distribution.noisy_steps import assert_close, images_like, weights_of
from tests.models import small
from tests.runs import assert_a_stop_changes_no_bit, final_state, logged
from tests.steps import adam_steps
from trainer.positions import Noise

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


RESAMPLING = {"auxiliary_weight": 0.0, "resample_every_steps": 4}


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["graph", "xla"])
@pytest.mark.parametrize("settings", [{}, RESAMPLING])
def test_many_replicas_bring_dead_units_back_as_one_does(execution, settings):
    images = images_like(1, BATCH, *SHAPE).repeat(8, 0)  # keeps 40 units at most
    (_, one), (_, many) = (adam_steps(lambda: create(**settings), n, execution) for n in (1, 2))
    metrics = one.train(0, images)
    if not settings:
        assert np.all(metrics["loss/auxiliary"][:3] == 0)
        assert np.all(metrics["loss/auxiliary"][3:] > 0)
    assert_close(many.train(0, images), metrics)
    assert_close(weights_of(many), weights_of(one))


def test_dead_units_come_back():
    images = images_like(1, BATCH, *SHAPE).repeat(60, 0)
    dead = []
    for settings in ({"auxiliary_weight": 1e-9}, {}, RESAMPLING | {"resample_norm": 1.0}):
        model, steps = adam_steps(lambda s=settings: create(**s), learning_rate=1e-2)
        steps.train(0, images)
        dead.append(np.mean(np.asarray(model.idle_steps) >= 3))
    assert max(dead[1:]) < dead[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "execution", "settings"),
    [
        (1, "graph", {}),
        (1, "xla", {"tied_weights": True}),
        (2, "graph", {"tied_weights": True}),
        (2, "xla", {"sparsity": "batch_topk"}),
        (1, "xla_update", {"sparsity": "jumprelu"}),
        (1, "graph", {"sparsity": "l1", "code_activation": "relu"}),
    ],
)
def test_dead_units_point_at_examples_drawn_by_squared_error_and_others_keep_their_bits(
    devices, execution, settings
):
    settings = RESAMPLING | {"resample_every_steps": 2, "resample_norm": 0.3} | settings
    images = images_like(2, BATCH, *SHAPE)
    model, steps = adam_steps(lambda: create(**settings), devices, execution, learning_rate=0.0)
    bias = np.zeros(60)
    bias[::4] = -100  # 15 dead units, more than the 8 examples of a batch
    model.encoder.get_layer("code").bias.assign(bias)
    model.idle_steps.assign(np.where(bias, 3, 0))
    before = weights_of(steps)
    steps.train(1, images[:1])
    for path in before:  # no resampling is due before step 1, and the rate is 0
        if path.startswith("model/") and path.count("/") == 3:
            np.testing.assert_array_equal(weights_of(steps)[path], before[path])
    steps.train(2, images[1:])
    after = weights_of(steps)

    unit = images[1] / np.float32(255)
    model.encoder.get_layer("code").bias.assign(bias)
    model.encoder.get_layer("code").kernel.assign(before["model/encoder/code/kernel"])
    if not settings.get("tied_weights"):
        model.decoder.get_layer("logits").kernel.assign(before["model/decoder/logits/kernel"])
    errors = np.square(model(unit) - unit).mean(axis=(1, 2, 3))
    draws = Noise(0, 2 * BATCH, BATCH).uniform("resampling", ()).numpy()
    order = np.argsort(-(2 * np.log(errors) - np.log(-np.log(draws))))
    mean = unit.reshape(BATCH, -1).mean(axis=0)
    drawn = unit.reshape(BATCH, -1)[order] - mean
    directions = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    replaced = np.arange(0, 4 * BATCH, 4)
    alive = np.flatnonzero(bias == 0)
    for path, array in after.items():
        of_encoder = "encoder" in path
        if path.startswith("optimizer/") or not (of_encoder or path.endswith("logits/kernel")):
            continue
        rows, rows_before = (a.T if of_encoder else a for a in (array, before[path]))
        np.testing.assert_array_equal(rows[alive], rows_before[alive])
        np.testing.assert_array_equal(rows[4 * BATCH :], rows_before[4 * BATCH :])
        if path.endswith("bias"):
            at_mean = after["model/encoder/code/kernel"].T[replaced] @ mean
            np.testing.assert_allclose(rows[replaced], -at_mean, rtol=1e-4, atol=1e-6)
            continue
        norm = np.linalg.norm(rows_before[alive], axis=1).mean() * (0.3 if of_encoder else 1)
        np.testing.assert_allclose(rows[replaced], norm * directions, rtol=1e-5, atol=1e-7)
    assert np.all(after["model/idle_steps"][replaced] <= 1)
    assert np.all(after["model/idle_steps"][4 * BATCH :: 4] == 5)


@pytest.mark.parametrize(
    ("settings", "decoder_kernels"),
    [({"sparsity": "jumprelu", "tied_weights": True}, 0), ({"tied_weights": False}, 1)],
)
def test_the_slots_of_resampled_units_begin_anew(settings, decoder_kernels):
    _, steps = adam_steps(lambda: create(**RESAMPLING | settings), learning_rate=0.0)
    dead = np.arange(60) % 10 == 0
    for path, variable in steps.variables().items():
        if path.endswith("idle_steps"):
            variable.assign(np.where(dead, 3, 0))
        elif variable.shape and path.startswith("optimizer/"):
            variable.assign(tf.ones(variable.shape))
    steps.train(4, images_like(1, BATCH, *SHAPE))
    weights = weights_of(steps)
    slots = [path for path in weights if path.endswith("_momentum") and 60 in weights[path].shape]
    assert len(slots) == 2 + decoder_kernels + (settings.get("sparsity") == "jumprelu")
    for path in slots:
        momentum, velocity = weights[path], weights[path.replace("momentum", "velocity")]
        # Of one gradient g, Adam's moments are (1 - .9) g and (1 - .999) g^2.
        of_one_gradient = np.isclose(np.square(momentum), 10 * velocity, rtol=1e-3)
        others = tuple(axis for axis, size in enumerate(momentum.shape) if size != 60)
        np.testing.assert_array_equal(np.all(of_one_gradient, axis=others), dead, err_msg=path)


@pytest.mark.parametrize(("last_step", "is_resampled"), [(7, False), (8, True)])
def test_units_are_resampled_only_if_as_many_steps_remain(last_step, is_resampled):
    settings = {"learning_rate": 0.0, "last_step": last_step}
    model, steps = adam_steps(lambda: create(**RESAMPLING), **settings)
    kernel = model.encoder.get_layer("code").kernel.numpy()
    model.idle_steps.assign(np.full(60, 3))
    steps.train(4, images_like(1, BATCH, *SHAPE))
    is_changed = np.any(model.encoder.get_layer("code").kernel.numpy() != kernel)
    assert is_changed == is_resampled


def test_a_step_that_float16_skips_counts_for_no_unit():
    model, steps = adam_steps(create, 2, precision="float16")
    steps.optimizer.dynamic_scale.assign(np.inf)
    images = one_image(2)
    assert steps.train(0, images[:1])["skipped_steps"][0] == 1
    assert not np.any(model.idle_steps)
    steps.optimizer.dynamic_scale.assign(1.0)
    assert steps.train(1, images[1:])["skipped_steps"][0] == 0
    assert np.any(model.idle_steps)


@pytest.mark.parametrize("settings", [{"auxiliary_weight": 0.1}, RESAMPLING])
def test_a_stop_leaves_no_trace_in_what_is_counted(tmp_path, monkeypatch, settings):
    config = load_config("sparse")
    config.model.update(tiny("sparse") | {"dead_after_steps": 2} | settings)
    config.data.update({"name": "digits", "resplit_test": 0.0})
    config.update({"batch_size": 8, "num_epochs": 6 * 8 / 1366, "execution": "graph"})
    config.update({"steps_per_call": 1, "log_every_steps": 1})
    assert_a_stop_changes_no_bit(config, tmp_path, monkeypatch, calls=3, step=3)
    rows = [row for row in logged(tmp_path / "stopped") if row["split"] == "train"]
    if settings["auxiliary_weight"]:
        assert [row["loss/auxiliary"] > 0 for row in rows] == [False, False, *[True] * 4]
    assert np.any(final_state(tmp_path / "stopped")[1]["model/idle_steps"])
