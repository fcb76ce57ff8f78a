"""One replica or many, any execution and precision: the same step."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import CONFIG_OF, load_config, tiny
from tests.distribution.noisy_steps import (
    BATCH,
    SHAPE,
    MeanCode,
    Noisy,
    PairedCodes,
    assert_close,
    images_like,
    make_steps,
    model_of,
    nearness,
    small,
    small_conv,
    trained,
    weights_of,
)
from tests.marks import slow
from tests.models.small import OF_THE_BATCH
from trainer.config import EXECUTIONS, Averaging, Optimizer
from trainer.distribution import optimizers, xla
from trainer.distribution.finite import FiniteCheck
from trainer.distribution.inference import map_batches
from trainer.distribution.step import Steps, StepSettings
from trainer.distribution.strategy import build_model, make_strategy
from trainer.distribution.xla import candidate_executions, cuts
from trainer.errors import NonFiniteError, UserError
from trainer.models.base import StepContext
from trainer.positions import Noise


@pytest.mark.parametrize(
    ("devices", "execution", "clip_norm"),
    [(4, "graph", 0.01), (2, "xla", 0.0), slow(4, "xla", 0.01)],
)
def test_many_replicas_train_as_one_does(devices, execution, clip_norm):
    images = images_like(20, BATCH, *SHAPE)
    settings = {"clip_norm": clip_norm, "averaging": Averaging(decay=0.9)}
    _, one = make_steps(1, execution, **settings)
    _, many = make_steps(devices, execution, **settings)
    assert_close(many.train(0, images), one.train(0, images))
    assert_close(weights_of(many), weights_of(one))


@pytest.mark.parametrize("name", [*CONFIG_OF.values(), "sparse_kl", "vae"])
def test_two_replicas_train_every_kind_as_one_does(name):
    changes = tiny(load_config(name).model.name)
    images = images_like(3, BATCH, 8, 8, 1)
    create = functools.partial(model_of, name, (8, 8, 1), **changes)
    one, two = (trained(images, n, create=create, learning_rate=1e-3) for n in (1, 2))
    assert_close(two, one, why=OF_THE_BATCH)


@pytest.mark.parametrize(
    ("devices", "execution"),
    [
        *((1, mode) for mode in EXECUTIONS if mode != "xla_products"),
        slow(1, "xla_products"),
        slow(2, "xla"),
    ],
)
def test_steps_have_the_same_bits_however_calls_are_cut_and_wherever_images_lie(
    devices, execution, monkeypatch
):
    monkeypatch.setattr(xla, "CUT_SIZE", 3)  # of images at a time, by matrix products
    create = small_conv if execution == "xla_products" else small
    images = images_like(50, *create().image_shape)
    indices = np.random.default_rng(0).integers(0, 50, (6, BATCH)).astype(np.int32)
    settings = {"create": create, "averaging": Averaging(decay=0.9)}
    _, at_once = make_steps(devices, execution, **settings)
    _, in_parts = make_steps(devices, execution, **settings)
    together = at_once.train(0, images[indices])
    assert in_parts.cache_on_device(images)
    parts = []
    for first, last in ((0, 1), (1, 4), (4, 6)):
        rows = np.zeros_like(indices)
        rows[: last - first] = indices[first:last]
        parts.append(in_parts.train(first, rows, last - first))
    for name, values in together.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))
    assert_close(weights_of(at_once), weights_of(in_parts), tolerance=0)


def test_a_batch_cut_for_the_caches_gives_the_gradients_of_the_whole(monkeypatch):
    images = images_like(4, BATCH, *SHAPE)
    whole = trained(images, execution="xla_products")
    monkeypatch.setattr(xla, "CUT_SIZE", 3)  # 8 images in four parts of two
    assert_close(trained(images, execution="xla_products"), whole)


def test_a_batch_is_cut_into_parts_that_suit_the_caches_or_not_at_all():
    parts = {1: 1, 64: 1, 128: 1, 129: 1, 131: 1, 256: 2, 512: 4, 600: 5}
    assert {size: cuts(size) for size in parts} == parts


def small_deep_conv():
    return model_of("deep_conv", (12, 12, 1), **tiny("deep_conv"))


@pytest.mark.parametrize("create", [small_conv, slow(small_deep_conv)])
def test_convolutions_as_matrix_products_train_as_they_are(create):
    images = images_like(2, BATCH, 12, 12, 1)
    settings = {"create": create, "learning_rate": 1e-3}
    as_products = trained(images, execution="xla_products", **settings)
    assert_close(as_products, trained(images, **settings))


def test_the_execution_suits_the_net_the_devices_and_the_batch():
    for name, devices, batch_size, fastest in (
        ("dense", 1, 4096, "xla"),
        ("dense", 2, 64, "graph"),
        ("deep", 1, 4096, "xla_update"),
        ("conv", 2, 64, "xla_products"),
        ("deep_conv", 1, 64, "xla_update"),
        ("deep_conv", 2, 64, "graph"),
    ):
        strategy = make_strategy(f"cpu:{devices}")
        assert candidate_executions(strategy, model_of(name), batch_size)[0] == fastest, name


def test_the_fastest_execution_is_found_without_a_trace():
    images = images_like(3, BATCH, *SHAPE)
    _, steps = make_steps()
    before = weights_of(steps)
    assert steps.fastest(("graph", "xla"), images) in ("graph", "xla")
    assert_close(weights_of(steps), before, tolerance=0)


def test_images_that_do_not_fit_the_device_are_not_cached(monkeypatch):
    _, steps = make_steps()

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "full")

    monkeypatch.setattr(tf, "identity", full)
    assert not steps.cache_on_device(images_like(4, *SHAPE))
    assert not steps.images_on_device


def test_the_step_is_the_textbook_one():
    # Plain gradient descent on the mean loss of the batch, by hand.
    image_batch = images_like(1, BATCH, *SHAPE)
    keras.utils.set_random_seed(0)
    strategy = make_strategy("cpu:2")
    model = build_model(strategy, "float32", small)
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
        lambda: optimizers.create(Optimizer(name="sgd")),
        lambda _: tf.constant(0.5),
        StepSettings("float32", BATCH, seed=3, last_step=9),
    )
    metrics = steps.train(5, image_batch)
    assert metrics["loss"][0] == pytest.approx(float(loss), rel=1e-5)
    norm = float(tf.linalg.global_norm(gradients))
    assert metrics["gradient_norm"][0] == pytest.approx(norm, rel=1e-4)
    for variable, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(variable, old - 0.5 * gradient.numpy(), atol=1e-6)


@pytest.mark.parametrize(("devices", "execution"), [(1, "xla"), (2, "xla"), (4, "graph")])
def test_a_loss_of_batch_means_has_their_value_and_gradient(devices, execution):
    create = functools.partial(small, MeanCode)
    images = images_like(1, BATCH, *SHAPE)
    model, _ = make_steps(create=create)
    with tf.GradientTape() as tape:
        unit = images[0] / np.float32(255)
        loss = tf.reduce_sum(tf.square(tf.reduce_mean(model.encode(unit), axis=0) - 0.3))
        total = loss + tf.reduce_mean(tf.square(model(unit) - unit))
    norm = tf.linalg.global_norm(tape.gradient(total, model.trainable_variables))
    _, steps = make_steps(devices, execution, create=create)
    assert steps.evaluate(images[0])["loss/mean"] == pytest.approx(float(loss), rel=1e-5)
    metrics = steps.train(0, images)
    assert metrics["loss/mean"][0] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["gradient_norm"][0] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_loss_of_pairs_has_their_value_and_gradient(devices):
    images = images_like(1, BATCH, *SHAPE)
    model, steps = make_steps(devices, create=functools.partial(small, PairedCodes))
    with tf.GradientTape() as tape:
        unit = images[0] / np.float32(255)
        codes = model.encode(unit)
        loss = tf.reduce_mean(nearness(codes, codes))
        total = loss + tf.reduce_mean(tf.square(model(unit) - unit))
    norm = tf.linalg.global_norm(tape.gradient(total, model.trainable_variables))
    assert steps.evaluate(images[0]).keys() == {"loss", "loss/mse"}
    metrics = steps.train(0, images)
    assert metrics["loss/near"][0] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["gradient_norm"][0] == pytest.approx(float(norm), rel=1e-4)


def test_a_loss_term_that_is_a_mean_over_the_batch_is_refused():
    model, steps = make_steps()
    model.loss_terms = lambda images, _: {"mean": tf.reduce_mean(model(images))}
    with pytest.raises(TypeError, match="'mean' has the shape"):
        steps.train(0, images_like(1, BATCH, *SHAPE))
    with pytest.raises(TypeError, match="'mean' has the shape"):
        steps.evaluate(images_like(3, *SHAPE))


def test_a_loss_knows_the_progress_of_the_training():
    model, steps = make_steps()
    model.loss_terms = lambda images, context: {
        "progress": context.progress + 0 * tf.reduce_sum(model(images), axis=[1, 2, 3])
    }
    progress = steps.train(5, images_like(3, BATCH, *SHAPE))["loss/progress"]
    np.testing.assert_allclose(progress, np.array([5, 6, 7]) / 20)
    assert steps.evaluate(images_like(3, *SHAPE))["loss/progress"] == 1


def test_the_gradient_norm_is_computed_where_it_is_asked_for_and_at_the_end():
    images = images_like(20, BATCH, *SHAPE)
    _, always = make_steps()
    _, seldom = make_steps(norm_every_steps=8)
    norms, some = (steps.train(0, images)["gradient_norm"] for steps in (always, seldom))
    assert np.flatnonzero(np.isfinite(some)).tolist() == [7, 15, 19]
    np.testing.assert_allclose(some[[7, 15, 19]], norms[[7, 15, 19]], rtol=1e-6)


def test_evaluation_is_the_mean_over_the_images_whatever_their_number():
    model, steps = make_steps(4)
    model.loss_terms = lambda images, context: {
        "mean": tf.reduce_mean(images, [1, 2, 3]) + 0 * context.noise.uniform("z", (1,))[:, 0]
    }
    for count in (1, 511, 513):
        images = images_like(count, *SHAPE)
        mean = pytest.approx(images.mean() / 255, rel=1e-5)
        assert steps.evaluate(images) == {"loss": mean, "loss/mean": mean}


def test_evaluation_with_noise_is_the_same_on_any_replicas_and_changes_nothing():
    images = images_like(700, *SHAPE)
    results = []
    for devices in (1, 4):
        _, steps = make_steps(devices)
        before = weights_of(steps)
        results.append(steps.evaluate(images))
        assert_close(weights_of(steps), before, tolerance=0)
    assert results[1] == pytest.approx(results[0], rel=1e-5)


@pytest.mark.parametrize(
    ("precision", "devices", "execution"),
    [("bfloat16", 1, "xla"), ("float16", 1, "xla_update"), ("float16", 2, "xla")],
)
def test_every_precision_trains_with_float32_weights(precision, devices, execution):
    model, steps = make_steps(devices, execution, precision=precision)
    images = np.repeat(images_like(1, BATCH, *SHAPE), 20, axis=0)
    losses = steps.train(0, images)["loss"]
    assert losses[-1] < 0.95 * losses[0]
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert model.encoder.get_layer("code").compute_dtype == precision


def test_codes_and_logits_are_computed_in_float32_whatever_the_precision():
    images = images_like(2, 8, 8, 1) / np.float32(255)
    for kind, name in CONFIG_OF.items():
        create = functools.partial(model_of, name, (8, 8, 1), **tiny(kind))
        model = build_model(make_strategy("cpu:1"), "bfloat16", create)
        for network, rows in ((model.encoder, images), (model.decoder, model.encode(images))):
            assert network(rows).dtype == tf.float32, kind
            layers = [layer for layer in network.layers if layer.weights]
            *others, last = [
                layer.compute_dtype for layer in layers if not layer.name.startswith("pca")
            ]
            assert last == "float32", kind
            assert set(others) <= {"bfloat16"}, kind


@pytest.mark.parametrize(
    ("precision", "last", "trim_share"), [("bfloat16", 104, 0), ("float16", 102, 0.5)]
)
def test_nan_in_a_batch_names_the_steps(precision, last, trim_share):
    _, steps = make_steps(precision=precision, trim_share=trim_share)
    images = images_like(5, BATCH, *SHAPE) / np.float32(255)
    images[2, 1] = np.nan  # without loss scaling the weights are lost from there on
    metrics = steps.train(100, images)
    with pytest.raises(NonFiniteError, match=f"steps 102 to {last}"):
        steps.require_finite(100, metrics)


def test_the_float16_loss_scale_falls_on_overflow_and_recovers():
    _, steps = make_steps(2, precision="float16", loss_scale_growth_steps=4)
    steps.optimizer.dynamic_scale.assign(2.0**30)
    before = weights_of(steps)["model/encoder/code/kernel"]
    images = images_like(40, BATCH, *SHAPE)
    first = steps.train(0, images[:1])
    assert not np.isfinite(first["gradient_norm"][0])
    assert first["skipped_steps"][0] == 1
    np.testing.assert_array_equal(weights_of(steps)["model/encoder/code/kernel"], before)
    scales = steps.train(1, images[1:])["loss_scale"]
    lowest = scales.argmin()
    assert scales[0] == 2.0**29
    assert scales[lowest] < 2.0**29
    assert scales[lowest:].max() > scales[lowest]
    assert np.isfinite(weights_of(steps)["model/encoder/code/kernel"]).all()


def test_a_float16_loss_scale_that_nothing_limits_stays_finite_and_skips_no_step():
    _, steps = make_steps(2, precision="float16", create=lambda: model_of("linear", SHAPE))
    steps.optimizer.dynamic_scale.assign(2.0**80)  # the squares of the gradients overflow
    before = weights_of(steps)["model/encoder/code/kernel"]
    metrics = steps.train(0, images_like(2, BATCH, *SHAPE))
    assert np.isfinite(metrics["gradient_norm"]).all()
    assert not metrics["skipped_steps"].any()
    assert metrics["loss_scale"].tolist() == [2.0**80, 2.0**32]
    assert np.any(weights_of(steps)["model/encoder/code/kernel"] != before)


def test_gradients_that_overflow_at_every_scale_end_the_run():
    check = FiniteCheck(scales_losses=True, norm_every_step=True)

    def metrics(skipped):
        norms = np.where(skipped, np.inf, 1.0)
        return {"loss": np.ones(25), "gradient_norm": norms, "skipped_steps": np.array(skipped)}

    check.require_finite(0, metrics([1] * 24 + [0]))
    check.require_finite(25, metrics([1] * 25))
    with pytest.raises(NonFiniteError, match="40 steps in a row up to step 64 "):
        check.require_finite(50, metrics([1] * 25))


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: make_steps(2, batch_size=7), "batch_size=7 .* 2"),
        (lambda: make_steps(batch_size=0), "batch_size=0 .* 1"),
        (lambda: make_steps(execution="fast"), "execution='fast' .*graph, xla_update, xla"),
        (lambda: make_strategy("cpu:64"), "cpu:64"),  # TensorFlow began with four devices
    ],
)
def test_what_cannot_be_computed_is_refused(mistake, named):
    with pytest.raises(UserError, match=named):
        mistake()


def test_batches_of_rows_are_mapped_whole():
    rows = np.arange(1300, dtype=np.float32)[:, np.newaxis]
    np.testing.assert_array_equal(map_batches(lambda batch: 2 * batch, rows), 2 * rows)


def test_a_variable_may_begin_with_a_value_instead_of_an_initializer():
    class Scaled(Noisy):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.scale = keras.Variable(2.0, name="scale")
            self.shifts = keras.Variable(np.zeros(3), name="shifts")

    model = build_model(make_strategy("cpu:2"), "float32", lambda: small(Scaled))
    assert (model.scale.numpy(), model.shifts.shape) == (2, (3,))


@pytest.mark.parametrize("place", ["_scale", "scales", "by_name", "layer"])
def test_a_variable_that_keras_does_not_track_is_refused(place):
    class Scaled(Noisy):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            scale = tf.Variable(1.0, trainable=False)
            if place == "layer":
                self.layer = keras.layers.Activation("relu")
                self.layer.scale = scale
            else:
                held = {"_scale": scale, "scales": [scale], "by_name": {"scale": scale}}
                setattr(self, place, held[place])

    with pytest.raises(TypeError, match=r"'\w+' of a \w+ holds a tf\.Variable.* keras\.Variable"):
        build_model(make_strategy("cpu:2"), "float32", lambda: small(Scaled))


def test_devices_have_one_strategy_in_a_process():
    assert make_strategy("cpu:2") is make_strategy("cpu:2")
