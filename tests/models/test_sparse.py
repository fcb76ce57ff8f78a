"""The sparse kind: what it keeps, what it penalises, on any number of replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.marks import slow
from tests.models import small
from tests.steps import adam_steps
from trainer.models.sparse import SPARSITIES
from trainer.models.sparse.model import bernoulli_kl_nats, jump_relu, keep_largest, threshold_gates
from trainer.serving import plain_keras

SHAPE = (6, 6, 1)
BATCH = 8


KL = {"sparsity": "kl", "code_activation": "sigmoid", "penalty_weight": 0.5}
JUMPRELU = {"sparsity": "jumprelu", "output_activation": "linear"}


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


@pytest.mark.parametrize("tied", [False, True])
def test_kernels_begin_with_the_standard_deviation_that_is_asked_for(tied):
    model = create(initial_std=0.01, tied_weights=tied, hidden_units=(90,))
    kernels = [weights.numpy() for weights in model.weights if "kernel" in weights.path]
    assert len(kernels) == (2 if tied else 4)
    for kernel in kernels:
        assert kernel.std() == pytest.approx(0.01, rel=0.1)
        assert np.abs(kernel).max() > 0.02  # beyond any uniform distribution of this deviation


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


def test_a_threshold_learns_from_the_activations_around_it():
    # Of bandwidth 1: .9 and 1.4 lie less than .5 from the threshold 1, .4 and 1.6 do not.
    activations = tf.constant([[0.4], [0.9], [1.4], [1.6], [-1.0]])
    weights = tf.constant([[1.0], [2.0], [4.0], [8.0], [16.0]])
    for function, values, of_activations, of_threshold in (
        (threshold_gates, [0, 0, 1, 1, 0], None, -(2 + 4) / 0.5),
        (jump_relu, [0, 0, 1.4, 1.6, 0], [0, 0, 4, 8, 0], -(2 + 4) / 0.5),
    ):
        threshold = tf.constant([1.0])
        with tf.GradientTape() as tape:
            tape.watch((activations, threshold))
            outputs = function(activations, threshold, 0.5 * 2)
            total = tf.reduce_sum(weights * outputs)
        found = tape.gradient(total, (activations, threshold))
        np.testing.assert_allclose(outputs[:, 0], values)
        np.testing.assert_allclose(found[1], [of_threshold * 0.5])
        if of_activations is None:
            assert found[0] is None or not np.any(found[0])
        else:
            np.testing.assert_array_equal(found[0][:, 0], of_activations)


def test_the_penalty_of_jumprelu_raises_thresholds_and_leaves_fewer_units_active():
    images = np.random.default_rng(0).integers(0, 256, (1, BATCH, *SHAPE)).astype(np.uint8)
    active = {}
    for weight in (0.0, 0.1):
        settings = JUMPRELU | {"penalty_weight": weight, "bandwidth": 0.5}
        model, steps = adam_steps(lambda s=settings: create(**s), learning_rate=5e-2)
        steps.train(0, images.repeat(60, 0))
        unit = images[0] / np.float32(255)
        codes = model.encode(unit).numpy()
        assert np.all(codes[codes != 0] > model.thresholds.numpy().min())
        counts = np.count_nonzero(codes, axis=1)
        means = steps.evaluate(images[0])
        assert means["l0"] == pytest.approx(counts.mean(), rel=1e-5)
        assert means["loss/l0_penalty"] == pytest.approx(weight * counts.mean(), rel=1e-5)
        assert means["loss"] == pytest.approx(
            means["loss/mse"] + means["loss/l0_penalty"], rel=1e-5
        )
        active[weight] = counts.mean()
    assert active[0.1] < 0.5 * active[0.0]


@pytest.mark.parametrize(
    ("devices", "execution", "precision"),
    [(2, "graph", "float32"), slow(2, "xla", "float32"), (1, "xla", "bfloat16")],
)
def test_jumprelu_trains_alike_on_any_replicas_and_nearly_so_in_bfloat16(
    devices, execution, precision
):
    images = np.random.default_rng(0).integers(0, 256, (10, BATCH, *SHAPE)).astype(np.uint8)
    _, one = adam_steps(lambda: create(**JUMPRELU), 1, "graph", learning_rate=1e-2)
    model, other = adam_steps(
        lambda: create(**JUMPRELU), devices, execution, precision=precision, learning_rate=1e-2
    )
    before = model.thresholds.numpy()
    metrics = one.train(0, images)
    for name, values in other.train(0, images).items():
        rtol = 1e-3 if precision == "float32" else 0.1
        np.testing.assert_allclose(values, metrics[name], rtol=rtol, err_msg=name)
    assert np.any(model.thresholds != before)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_plain_keras_layers_compute_the_codes_of_each_sparsity(sparsity, tmp_path):
    activation = "sigmoid" if sparsity == "kl" else "linear"
    model = create(sparsity=sparsity, code_activation=activation)
    if sparsity == "batch_topk":
        model.threshold.assign(0.1)
    images = small.images_like(BATCH, SHAPE)
    plain_keras.encoder(model, None, "float32").save(tmp_path / "encoder.keras")
    encoder = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(encoder(images), model.encode(images), rtol=1e-5, atol=1e-6)
    if sparsity in ("k_sparse", "batch_topk", "jumprelu"):
        assert np.any(model.encode(images) == 0)
