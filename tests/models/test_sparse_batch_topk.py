"""Sparsity "batch_topk": the largest activations of the global batch, and the test's threshold."""

import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tests.all_configs import tiny
from tests.distribution.noisy_steps import assert_close, images_like, weights_of
from tests.models import small
from tests.runs import assert_a_stop_changes_no_bit, final_state
from tests.steps import adam_steps
from trainer.models.sparse.model import smallest_kept

SHAPE = (6, 6, 1)
BATCH = 8
UNITS = {"code_size": 60, "active_units": 5, "first_active_units": 5}


def create(**settings):
    return small.create("sparse", SHAPE, sparsity="batch_topk", **UNITS | settings)


def activations_of(model, images):
    return model.encoder(images / np.float32(255)).numpy()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_smallest_kept_is_positive_and_among_the_largest_of_the_batch(jit_compile):
    batch = tf.constant([[4.0, -1.0, 1.0], [3.0, 2.0, -2.0]])
    smallest = tf.function(lambda rows, k: smallest_kept(rows, k, most=6), jit_compile=jit_compile)
    found = [float(smallest(batch, tf.constant(count))) for count in range(1, 7)]
    assert found == [4, 3, 2, 1, 1, 1]
    assert float(smallest(-tf.abs(batch), tf.constant(2))) == np.inf


def test_a_batch_keeps_its_largest_activations_whatever_example_has_them(monkeypatch):
    model = create(first_active_units=8, annealing_share=0.5)
    images = small.images_like(BATCH, SHAPE)
    activations = model.encoder(images).numpy()
    codes, decoder = [], model.decoder
    replicas = slice(0, 3), slice(3, BATCH)
    # A product of fewer rows may round differently from that of the batch, which is ranked.
    own = np.concatenate([model.encoder(images[rows]) for rows in replicas])

    def decoded(rows):
        codes.append(rows.numpy())
        return decoder(rows)

    monkeypatch.setattr(model, "decoder", decoded)
    for progress, count in ((0.0, 8 * BATCH), (1.0, 5 * BATCH)):
        for rows in replicas:
            context = small.context(
                rows.stop - rows.start,
                progress=progress,
                batch_values=model.shared_values(images),
                first_row=rows.start,
            )
            model.loss_terms(images[rows], context)
        kept = np.concatenate(codes[-2:])
        smallest = np.sort(activations, axis=None)[-count]
        np.testing.assert_array_equal(kept, np.where(activations >= smallest, own, 0))
        counts = np.count_nonzero(kept, axis=1)
        assert counts.sum() == count and len(set(counts)) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "execution", "precision", "size"),
    [
        (1, "graph", "float32", BATCH),
        (1, "xla", "bfloat16", BATCH),
        (1, "xla_products", "float32", 256),  # cut in two
        (2, "graph", "float16", BATCH),
        (2, "xla", "float32", BATCH),
    ],
)
def test_the_threshold_is_the_moving_average_of_the_smallest_kept(
    devices, execution, precision, size
):
    images = images_like(3, size, *SHAPE)
    model, steps = adam_steps(
        lambda: create(threshold_decay=0.75),
        devices,
        execution,
        precision=precision,
        learning_rate=0.0,
        batch_size=size,
    )
    first, second, third = (
        np.sort(activations_of(model, batch), axis=None)[-5 * size] for batch in images
    )
    metrics = steps.train(0, images)
    expected = 0.75**2 * first + 0.75 * 0.25 * second + 0.25 * third
    rtol = 1e-5 if precision == "float32" else 0.02
    np.testing.assert_allclose(model.threshold, expected, rtol=rtol)
    activations = activations_of(model, images[2])
    decoded = model.decode(np.where(activations >= third, activations, 0))
    error = np.square(decoded - images[2] / np.float32(255)).mean()
    np.testing.assert_allclose(metrics["loss/mse"][2], error, rtol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("execution", "settings"), [("graph", {"trim_share": 0.25}), ("xla", {"trim_share": 0.0})]
)
def test_many_replicas_train_as_one_does(execution, settings):
    images = images_like(8, BATCH, *SHAPE)
    (_, one), (_, many) = (adam_steps(create, n, execution, **settings) for n in (1, 2))
    assert_close(many.train(0, images), one.train(0, images))
    assert_close(weights_of(many), weights_of(one))


def test_an_evaluation_uses_the_threshold_and_changes_nothing():
    images = images_like(2, BATCH, *SHAPE)
    model, steps = adam_steps(create, 2)
    steps.train(0, images)
    before = weights_of(steps)
    threshold = model.threshold.numpy()
    loss = steps.evaluate(images[0])["loss"]
    activations = activations_of(model, images[0])
    codes = model.encode(images[0] / np.float32(255)).numpy()
    np.testing.assert_array_equal(codes, np.where(activations >= threshold, activations, 0))
    assert 0 < np.count_nonzero(codes) < codes.size
    error = np.square(model.decode(codes) - images[0] / np.float32(255)).mean()
    assert loss == pytest.approx(error, rel=1e-5)
    assert_close(weights_of(steps), before, 0)


def test_a_batch_without_positive_activations_leaves_the_threshold():
    model, steps = adam_steps(create)
    model.encoder.get_layer("code").bias.assign(np.full(60, -100))
    model.threshold.assign(0.5)
    steps.train(0, images_like(1, BATCH, *SHAPE))
    assert model.threshold.numpy() == 0.5


def test_a_stop_leaves_no_trace_in_the_threshold(tmp_path, monkeypatch):
    config = base.get_config("sparse")
    config.model.update(tiny("sparse") | {"sparsity": "batch_topk"})
    config.data.update({"name": "digits", "resplit_test": 0.0})
    config.update({"batch_size": 8, "num_epochs": 6 * 8 / 1366, "execution": "graph"})
    config.update({"steps_per_call": 1, "log_every_steps": 1})
    assert_a_stop_changes_no_bit(config, tmp_path, monkeypatch, calls=3, step=3)
    assert final_state(tmp_path / "stopped")[1]["model/threshold"] > 0
