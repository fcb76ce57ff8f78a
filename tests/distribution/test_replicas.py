"""One replica or many, any precision: the same step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import CONFIGS, load_config
from trainer import models
from trainer.distribution import optimizers, xla
from trainer.distribution.inference import map_batches
from trainer.distribution.step import Steps
from trainer.distribution.strategy import build_model, make_strategy
from trainer.distribution.xla import candidate_executions, cuts
from trainer.errors import NonFiniteError, UserError
from trainer.models.base import StepContext, means_of_each
from trainer.positions import Noise

BATCH = 8


class Noisy(models.Autoencoder):
    """Adds noise to its input and its code, as the kinds that draw noise do."""

    def loss_terms(self, images, context):
        noise = context.noise
        noisy = images + 0.1 * noise.normal("corruption", self.image_shape)
        codes = tf.cast(self.encode(noisy), tf.float32) + noise.uniform("code", (self.code_size,))
        error = tf.reduce_mean(tf.square(self.decode(codes) - images), [1, 2, 3])
        return {"mse": error, "l1": 1e-3 * tf.reduce_sum(tf.abs(codes), axis=1)}


def noisy_model(kind=Noisy):
    layers = keras.layers
    encoder = [layers.Flatten(), layers.Dense(5, "tanh", name="code")]
    decoder = [layers.Dense(36, name="out"), layers.Reshape((6, 6, 1), dtype="float32")]
    return kind(
        (6, 6, 1),
        keras.Sequential([keras.Input((6, 6, 1)), *encoder], name="encoder"),
        keras.Sequential([keras.Input((5,)), *decoder], name="decoder"),
        loss="mse",
        output_activation="sigmoid",
    )


def make_steps(
    devices=1,
    *,
    create=noisy_model,
    precision="float32",
    execution="graph",
    clip_norm=0.0,
    learning_rate=1e-2,
    batch_size=BATCH,
    **settings,
):
    keras.utils.set_random_seed(0)
    strategy = make_strategy(f"cpu:{devices}")
    model = build_model(strategy, precision, create)
    schedule = optimizers.learning_rate_schedule(
        "cosine", learning_rate=learning_rate, warmup_steps=2, last_step=20
    )
    steps = Steps(
        strategy,
        model,
        lambda: optimizers.create("adam", clip_norm=clip_norm, weight_decay=0.0),
        schedule,
        precision=precision,
        batch_size=batch_size,
        seed=3,
        last_step=20,
        execution=execution,
        **settings,
    )
    return model, steps


def images_like(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def weights_of(steps):
    return {path: variable.numpy() for path, variable in steps.variables().items()}


def assert_close(actual, expected, tolerance=1e-5):
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(actual[path], value, rtol=0, atol=tolerance, err_msg=path)


@pytest.mark.parametrize("clip_norm", [0.0, 0.01])
@pytest.mark.parametrize("execution", ["graph", "xla"])
@pytest.mark.parametrize("devices", [2, 4])
def test_many_replicas_train_as_one_does(devices, execution, clip_norm):
    images = images_like(20, BATCH, 6, 6, 1)
    runs = []
    for count in (1, devices):
        _, steps = make_steps(count, execution=execution, clip_norm=clip_norm)
        runs.append((steps.train(0, images), weights_of(steps)))
    (one, one_weights), (many, many_weights) = runs
    assert_close(many, one)
    assert_close(many_weights, one_weights)


@pytest.mark.parametrize("name", CONFIGS)
def test_two_replicas_train_every_kind_as_one_does(name):
    settings = load_config(name).model
    if name in ("deep", "dense"):
        settings.hidden_units = (12, 8)
    if name == "contractive":
        settings.code_size = 12
    if name == "sdae":
        settings.layer_sizes = (12, 8, 12)
    if name == "sparse_kl":
        settings.update({"code_size": 12, "active_units": 2, "first_active_units": 2})
    images = images_like(3, BATCH, 28, 28, 1)
    weights = []
    for devices in (1, 2):
        _, steps = make_steps(
            devices, create=lambda: models.create((28, 28, 1), **settings), learning_rate=1e-3
        )
        steps.train(0, images)
        weights.append(weights_of(steps))
    assert_close(weights[1], weights[0])


@pytest.mark.parametrize("execution", ["graph", "xla_update", "xla"])
def test_steps_cut_into_calls_in_any_way_are_the_same_bits(execution):
    images = images_like(6, BATCH, 6, 6, 1)
    _, at_once = make_steps(execution=execution)
    together = at_once.train(0, images)
    _, in_parts = make_steps(execution=execution)
    parts = []
    for first, last in ((0, 1), (1, 4), (4, 6)):
        rows = np.zeros_like(images)
        rows[: last - first] = images[first:last]
        parts.append(in_parts.train(first, rows, last - first))
    for name, values in together.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))
    assert_close(weights_of(at_once), weights_of(in_parts), tolerance=0)


@pytest.mark.parametrize("execution", ["graph", "xla_update", "xla"])
@pytest.mark.parametrize("devices", [1, 2])
def test_images_on_the_device_train_as_those_that_are_handed_over(devices, execution):
    images = images_like(50, 6, 6, 1)
    numbers = np.random.default_rng(0).integers(0, 50, (5, BATCH)).astype(np.int32)
    _, handed = make_steps(devices, execution=execution)
    _, placed = make_steps(devices, execution=execution)
    assert placed.cache_on_device(images)
    metrics = handed.train(0, images[numbers])
    for name, values in placed.train(0, numbers).items():
        np.testing.assert_array_equal(values, metrics[name])
    assert_close(weights_of(placed), weights_of(handed), tolerance=0)


def test_a_batch_cut_for_the_caches_gives_the_gradients_of_the_whole(monkeypatch):
    images = images_like(4, BATCH, 6, 6, 1)
    weights = []
    for cut_size in (BATCH, 3):  # 8 images in one part, or in four of two
        monkeypatch.setattr(xla, "CUT_SIZE", cut_size)
        _, steps = make_steps(execution="xla_products")
        steps.train(0, images)
        weights.append(weights_of(steps))
    assert_close(weights[1], weights[0])


def test_products_are_the_same_bits_however_calls_are_cut_and_images_lie(monkeypatch):
    monkeypatch.setattr(xla, "CUT_SIZE", 3)
    images = images_like(50, 12, 12, 1)
    numbers = np.random.default_rng(0).integers(0, 50, (3, BATCH)).astype(np.int32)
    settings = load_config("conv").model

    def start():
        create = lambda: models.create((12, 12, 1), **settings)  # noqa: E731
        return make_steps(create=create, execution="xla_products")[1]

    at_once, placed = start(), start()
    at_once.train(0, images[numbers])
    assert placed.cache_on_device(images)
    placed.train(0, numbers, 2)
    placed.train(2, np.concatenate([numbers[2:], numbers[:2]]), 1)
    assert_close(weights_of(placed), weights_of(at_once), tolerance=0)


@pytest.mark.parametrize(
    ("size", "parts"), [(1, 1), (64, 1), (128, 1), (129, 1), (131, 1), (256, 2), (512, 4), (600, 5)]
)
def test_a_batch_is_cut_into_parts_that_suit_the_caches_or_not_at_all(size, parts):
    assert cuts(size) == parts


@pytest.mark.parametrize(
    ("name", "devices", "batch_size", "fastest"),
    [
        ("dense", 1, 4096, "xla"),
        ("dense", 2, 64, "graph"),
        ("deep", 1, 64, "xla"),
        ("deep", 1, 4096, "xla_update"),
        ("conv", 1, 64, "xla_products"),
        ("conv", 2, 64, "xla_products"),
        ("deep_conv", 1, 64, "xla_update"),
        ("deep_conv", 2, 64, "graph"),
    ],
)
def test_the_execution_suits_the_net_the_devices_and_the_batch(name, devices, batch_size, fastest):
    strategy = make_strategy(f"cpu:{devices}")
    model = models.create((28, 28, 1), **load_config(name).model)
    assert candidate_executions(strategy, model, batch_size)[0] == fastest


def test_images_that_do_not_fit_the_device_are_not_placed(monkeypatch):
    _, steps = make_steps()

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "full")

    monkeypatch.setattr(tf, "identity", full)
    assert not steps.cache_on_device(images_like(4, 6, 6, 1))
    assert not steps.images_on_device


@pytest.mark.parametrize("name", ["conv", "deep_conv", "denoising"])
def test_convolutions_as_matrix_products_train_as_they_are(name):
    images = images_like(2, BATCH, 28, 28, 1)
    weights = []
    for execution in ("graph", "xla_products"):
        _, steps = make_steps(
            create=lambda: models.create((28, 28, 1), **load_config(name).model),
            execution=execution,
            learning_rate=1e-3,
        )
        steps.train(0, images)
        weights.append(weights_of(steps))
    assert_close(weights[1], weights[0])


def test_the_fastest_execution_is_found_without_a_trace():
    images = images_like(3, BATCH, 6, 6, 1)
    _, steps = make_steps()
    before = weights_of(steps)
    assert steps.fastest(("graph", "xla"), images) in ("graph", "xla")
    assert_close(weights_of(steps), before, tolerance=0)


def test_an_unknown_execution_is_refused():
    with pytest.raises(UserError, match=r"execution='fast' .*graph, xla_update, xla, xla_products"):
        make_steps(execution="fast")


class MeanCode(models.Autoencoder):
    """Pulls the mean of each code unit over the global batch to .3."""

    def statistics(self, images):
        return tf.cast(self.encode(images), tf.float32)

    def loss_terms(self, images, context):
        means = means_of_each(context.batch_means, self.statistics(images))
        error = super().loss_terms(images, context)
        return error | {"mean": tf.reduce_sum(tf.square(means - 0.3), axis=1)}


@pytest.mark.parametrize("execution", ["graph", "xla"])
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_a_loss_of_batch_means_has_their_value_and_gradient(devices, execution):
    def create():
        return noisy_model(MeanCode)

    images = images_like(1, BATCH, 6, 6, 1)
    model, _ = make_steps(create=create)
    with tf.GradientTape() as tape:
        unit = images[0] / np.float32(255)
        loss = tf.reduce_sum(tf.square(tf.reduce_mean(model.encode(unit), axis=0) - 0.3))
        total = loss + tf.reduce_mean(tf.square(model(unit) - unit))
    norm = tf.linalg.global_norm(tape.gradient(total, model.trainable_variables))
    _, steps = make_steps(devices, create=create, execution=execution)
    evaluated = steps.evaluate(images[0])
    assert evaluated["loss/mean"] == pytest.approx(float(loss), rel=1e-5)
    metrics = steps.train(0, images)
    assert metrics["loss/mean"][0] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["gradient_norm"][0] == pytest.approx(float(norm), rel=1e-4)


def test_a_kind_is_told_its_progress():
    model, steps = make_steps()
    model.loss_terms = lambda images, context: {
        "progress": context.progress + 0 * tf.reduce_sum(model(images), axis=[1, 2, 3])
    }
    progress = steps.train(5, images_like(3, BATCH, 6, 6, 1))["loss/progress"]
    np.testing.assert_allclose(progress, np.array([5, 6, 7]) / 20)
    assert steps.evaluate(images_like(3, 6, 6, 1))["loss/progress"] == 1


def test_the_step_is_the_textbook_one():
    # Plain gradient descent on the mean loss of the batch, by hand.
    image_batch = images_like(1, BATCH, 6, 6, 1)
    keras.utils.set_random_seed(0)
    strategy = make_strategy("cpu:2")
    model = build_model(strategy, "float32", noisy_model)
    before = [variable.numpy() for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        context = StepContext(
            Noise(3, 5 * BATCH, BATCH), progress=tf.constant(5 / 9), training=True
        )
        terms = model.loss_terms(image_batch[0] / np.float32(255), context)
        loss = tf.reduce_mean(terms["mse"]) + tf.reduce_mean(terms["l1"])
    gradients = tape.gradient(loss, model.trainable_variables)
    steps = Steps(
        strategy,
        model,
        lambda: optimizers.create("sgd", clip_norm=0.0, weight_decay=0.0),
        optimizers.learning_rate_schedule(
            "constant", learning_rate=0.5, warmup_steps=0, last_step=9
        ),
        precision="float32",
        batch_size=BATCH,
        seed=3,
        last_step=9,
        execution="graph",
    )
    metrics = steps.train(5, image_batch)
    assert metrics["loss"][0] == pytest.approx(float(loss), rel=1e-5)
    norm = float(tf.linalg.global_norm(gradients))
    assert metrics["gradient_norm"][0] == pytest.approx(norm, rel=1e-4)
    for variable, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(variable, old - 0.5 * gradient.numpy(), atol=1e-6)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 511, 513])
def test_evaluation_is_the_mean_over_the_images_whatever_their_number(devices, count):
    model, steps = make_steps(devices)
    model.loss_terms = lambda images, context: {
        "mean": tf.reduce_mean(images, [1, 2, 3]) + 0 * context.noise.uniform("z", (1,))[:, 0]
    }
    images = images_like(count, 6, 6, 1)
    expected = images.mean() / 255
    metrics = steps.evaluate(images)
    assert metrics == {
        "loss": pytest.approx(expected, rel=1e-5),
        "loss/mean": pytest.approx(expected, rel=1e-5),
    }


def test_evaluation_with_noise_is_the_same_on_any_replicas_and_changes_nothing():
    images = images_like(700, 6, 6, 1)
    results = []
    for devices in (1, 4):
        _, steps = make_steps(devices)
        before = weights_of(steps)
        results.append(steps.evaluate(images))
        assert_close(weights_of(steps), before, tolerance=0)
    assert results[1] == pytest.approx(results[0], rel=1e-5)


@pytest.mark.parametrize(
    ("devices", "execution"), [(1, "graph"), (2, "graph"), (1, "xla_update"), (1, "xla")]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_precision_trains_with_float32_weights(precision, devices, execution):
    model, steps = make_steps(devices, precision=precision, execution=execution)
    images = np.repeat(images_like(1, BATCH, 6, 6, 1), 20, axis=0)
    losses = steps.train(0, images)["loss"]
    assert losses[-1] < 0.95 * losses[0]
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert model.encoder.get_layer("code").compute_dtype == precision


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_codes_and_logits_are_computed_in_float32_whatever_the_precision(name, precision):
    strategy = make_strategy("cpu:1")
    model = build_model(
        strategy, precision, lambda: models.create((28, 28, 1), **load_config(name).model)
    )
    images = images_like(2, 28, 28, 1) / np.float32(255)
    for network, rows in ((model.encoder, images), (model.decoder, model.encode(images))):
        assert network(rows).dtype == tf.float32
        with_weights = [layer for layer in network.layers if layer.weights]
        assert with_weights[-1].compute_dtype == "float32"
        assert {layer.compute_dtype for layer in with_weights[:-1]} <= {precision}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_nan_in_a_batch_names_the_steps(precision):
    _, steps = make_steps(precision=precision)
    images = images_like(5, BATCH, 6, 6, 1) / np.float32(255)
    images[2, 1] = np.nan
    # Without loss scaling the weights are lost from there on.
    last = 102 if precision == "float16" else 104
    metrics = steps.train(100, images)
    with pytest.raises(NonFiniteError, match=f"steps 102 to {last}"):
        steps.require_finite(100, metrics)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_float16_loss_scale_falls_on_overflow_and_recovers(devices):
    _, steps = make_steps(devices, precision="float16", loss_scale_growth_steps=4)
    steps.optimizer.dynamic_scale.assign(2.0**30)
    before = weights_of(steps)["model/encoder/code/kernel"]
    images = images_like(40, BATCH, 6, 6, 1)
    first = steps.train(0, images[:1])
    assert not np.isfinite(first["gradient_norm"][0])
    np.testing.assert_array_equal(weights_of(steps)["model/encoder/code/kernel"], before)
    scales = steps.train(1, images[1:])["loss_scale"]
    lowest = scales.argmin()
    assert scales[0] == 2.0**29
    assert scales[lowest] < 2.0**29
    assert scales[lowest:].max() > scales[lowest]
    assert np.isfinite(weights_of(steps)["model/encoder/code/kernel"]).all()


def test_gradients_that_overflow_at_every_scale_end_the_run():
    model, steps = make_steps(precision="float16")
    terms = model.loss_terms

    @tf.custom_gradient
    def finite_with_infinite_gradient(values):
        return values, lambda upstream: upstream * np.inf

    model.loss_terms = lambda images, context: {
        name: finite_with_infinite_gradient(values)
        for name, values in terms(images, context).items()
    }
    images = images_like(25, BATCH, 6, 6, 1)
    steps.require_finite(0, steps.train(0, images))
    metrics = steps.train(25, images)
    with pytest.raises(NonFiniteError, match="40 steps in a row up to step 39 "):
        steps.require_finite(25, metrics)


@pytest.mark.parametrize(("batch_size", "devices"), [(7, 2), (6, 4), (0, 1)])
def test_a_batch_that_the_replicas_cannot_share_is_refused(batch_size, devices):
    with pytest.raises(UserError, match=f"batch_size={batch_size} .* {devices}"):
        make_steps(devices, batch_size=batch_size)


@pytest.mark.parametrize("name", ["gpu", "cpu", "cpu:0", "cpu:x", "cpu:-1"])
def test_an_unknown_strategy_is_refused(name):
    with pytest.raises(UserError, match=f"strategy='{name}' is not known"):
        make_strategy(name)


def test_more_devices_than_tensorflow_began_with_are_refused():
    with pytest.raises(UserError, match="cpu:64"):
        make_strategy("cpu:64")


def test_batches_of_rows_are_mapped_whole():
    rows = np.arange(1300, dtype=np.float32)[:, np.newaxis]
    np.testing.assert_array_equal(map_batches(lambda batch: 2 * batch, rows), 2 * rows)
