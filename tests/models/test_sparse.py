"""The sparse kind: what it keeps, what it penalises, on any number of replicas."""

import numpy as np
import pytest
import tensorflow as tf

from tests.models import small
from tests.steps import adam_steps
from trainer.models.sparse.model import bernoulli_kl_nats, keep_largest

SHAPE = (6, 6, 1)
BATCH = 8


KL = {"sparsity": "kl", "code_activation": "sigmoid", "penalty_weight": 0.5}


def create(**settings):
    defaults = {"code_size": 60, "active_units": 5, "first_active_units": 20}
    return small.create("sparse", SHAPE, **defaults | settings)


def test_the_kl_of_two_bernoulli_distributions():
    # .1 log(.1/.4) + .9 log(.9/.6) = -.1386294 + .3649186
    divergences = bernoulli_kl_nats(0.1, tf.constant([0.4, 0.1])).numpy()
    np.testing.assert_allclose(divergences, [0.2262891, 0], atol=1e-6)
    assert np.isfinite(bernoulli_kl_nats(0.1, tf.constant([0.0, 1.0]))).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_exactly_so_many_are_kept_and_they_are_the_largest(jit_compile):
    random = np.random.default_rng(0)
    # Few different values, so that there are ties, of which the first are kept; none is 0.
    activations = random.integers(1, 5, (50, 12)).astype(np.float32)
    activations *= random.choice([-1, 1], activations.shape)
    keep = tf.function(lambda rows, k: keep_largest(rows, k, most=7), jit_compile=jit_compile)
    for count in (1, 3, 7):
        kept = keep(activations, tf.constant(count)).numpy()
        largest = np.argsort(-activations, axis=1, kind="stable")[:, :count]
        expected = np.zeros_like(activations)
        np.put_along_axis(expected, largest, np.take_along_axis(activations, largest, 1), 1)
        np.testing.assert_array_equal(kept, expected)
    activations[1, 3] = np.nan
    seen = np.isnan(keep(activations, tf.constant(1))).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(seen), [1])


def test_only_what_is_kept_has_a_gradient():
    activations = tf.constant([[3.0, 1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(activations)
        total = tf.reduce_sum(5 * keep_largest(activations, 2, most=2))
    np.testing.assert_array_equal(tape.gradient(total, activations), [[5, 0, 5]])


def test_the_kept_units_fall_to_their_number_and_stay_there():
    model = create(annealing_share=0.5)
    progress = (0.0, 0.25, 0.5, 0.75, 1.0)
    kept = [int(model.kept_units(tf.constant(share))) for share in progress]
    assert kept == [20, round(20 - 0.5 * 15), 5, 5, 5]
    assert int(create(annealing_share=0.0).kept_units(tf.constant(0.0))) == 5


def test_training_keeps_the_annealed_number_and_the_test_alpha_times_the_last(monkeypatch):
    model = create(alpha=3.0)
    images = small.images_like(BATCH, SHAPE)
    np.testing.assert_array_equal((model.encode(images).numpy() != 0).sum(axis=1), 15)
    kept = []
    decoder = model.decoder

    def decoded(codes):
        kept.append(set(np.count_nonzero(codes, axis=1)))
        return decoder(codes)

    monkeypatch.setattr(model, "decoder", decoded)
    model.loss_terms(images, small.context(BATCH, progress=0.0))
    model.loss_terms(images, small.context(BATCH, progress=1.0))
    model.loss_terms(images, small.context(BATCH, progress=1.0, training=False))
    assert kept == [{20}, {5}, {15}]


def test_l1_is_the_sum_of_the_activations():
    # A penalty does not mind the settings of k_sparse: first_active_units is 20.
    model = create(sparsity="l1", penalty_weight=0.5, code_size=10)
    images = small.images_like(BATCH, SHAPE)
    expected = 0.5 * np.abs(model.encode(images)).sum(axis=1)
    np.testing.assert_allclose(
        model.loss_terms(images, small.context(BATCH))["l1"], expected, rtol=1e-5
    )


@pytest.mark.parametrize(("devices", "execution"), [(1, "xla"), (2, "graph")])
def test_the_penalty_is_of_the_means_over_the_global_batch(devices, execution):
    images = np.random.default_rng(0).integers(0, 256, (1, BATCH, *SHAPE)).astype(np.uint8)
    unit = images[0] / np.float32(255)

    def penalty(model):
        rates = tf.reduce_mean(model.encode(unit), axis=0)  # first, and then the divergence
        return 0.5 * tf.reduce_sum(bernoulli_kl_nats(0.1, rates))

    alone = create(**KL)
    with tf.GradientTape() as tape:
        expected = penalty(alone)
        loss = expected + tf.reduce_mean(tf.square(alone(unit) - unit))
    norm = tf.linalg.global_norm(tape.gradient(loss, alone.trainable_variables))

    _, steps = adam_steps(lambda: create(**KL), devices, execution)
    assert steps.evaluate(images[0])["loss/kl"] == pytest.approx(float(expected), rel=1e-5)
    metrics = steps.train(0, images)
    assert metrics["loss/kl"][0] == pytest.approx(float(expected), rel=1e-5)
    assert metrics["gradient_norm"][0] == pytest.approx(float(norm), rel=1e-4)
