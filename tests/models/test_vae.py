"""The variational kind against closed forms."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tests.models import small
from tests.steps import adam_steps
from tests.verbs.refusals import refused
from trainer.distribution import xla
from trainer.models.vae import model as vae
from trainer.positions import Noise
from trainer.training.train import train

SHAPE = (3, 3, 1)
DEVIATION = 0.3  # of the pixels in the linear Gaussian model


def create(image_shape=SHAPE, **settings):
    return small.create("vae", image_shape, **{"code_size": 2, "hidden_units": (5,)} | settings)


def images_like(count=4, image_shape=SHAPE):
    return small.images_like(count, image_shape)


def loss(model, images, at):
    return np.sum([term.numpy() for term in model.loss_terms(images, at).values()], axis=0)


def interval(values):
    """Four standard errors of their mean."""
    return 4 * float(np.std(values)) / math.sqrt(len(values))


def linear_gaussian(spread=1.0, **settings):
    """A model x = W z + c + .3 noise whose marginal and posterior are known, and -log p(x).

    With z ~ N(0, I), p(x) = N(c, W W' + .09 I) and p(z|x) = N(S W' (x - c) / .09, S) with
    S = (I + W' W / .09)^-1, diagonal since W's columns are orthogonal. The encoder is made that
    posterior, its standard deviations times `spread`.
    """
    model = create(
        hidden_units=(),
        likelihood="gaussian",
        standard_deviation=DEVIATION,
        binarisation="none",
        **settings,
    )
    directions = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 1], [1, -1, 1, -1, 1, 0, 1, 0, 0]]) / 4
    assert directions[0] @ directions[1] == 0
    offset = np.linspace(0.2, 0.8, 9)
    precision = 1 + np.sum(directions**2, axis=1) / DEVIATION**2
    to_mean = directions.T / DEVIATION**2 / precision
    log_variance = 2 * math.log(spread) - np.log(precision)
    model.decoder.get_layer("logits").set_weights([directions, offset])
    model.encoder.get_layer("code").set_weights([
        np.concatenate([to_mean, np.zeros((9, 2))], axis=1),
        np.concatenate([-offset @ to_mean, log_variance]),
    ])  # fmt: skip

    def nll(images):
        covariance = directions.T @ directions + DEVIATION**2 * np.eye(9)
        centred = images.reshape(-1, 9) - offset
        mahalanobis = np.sum(centred @ np.linalg.inv(covariance) * centred, axis=1)
        return 0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance)[1])

    return model, nll


def test_the_kl_divergence_is_that_of_two_gaussians():
    # KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s, summed over the units.
    mean = tf.constant([[0.0, 0.0], [1.0, -2.0]])
    deviation = tf.constant([[1.0, 1.0], [0.5, 3.0]])
    expected = [0, (1 + 0.25 - 1) / 2 + math.log(2) + (4 + 9 - 1) / 2 - math.log(3)]
    kl = vae.kl_nats(mean, 2 * tf.math.log(deviation))
    np.testing.assert_allclose(kl, expected, atol=1e-6)


def test_the_likelihoods_are_those_of_their_distributions():
    logits, pixels = tf.constant([-3.0, 0.5, 40.0]), tf.constant([1.0, 0.0, 1.0])
    probability = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    expected = np.log([probability[0], 1 - probability[1], probability[2]])
    np.testing.assert_allclose(vae.bernoulli_nats(logits, pixels), expected, atol=1e-5)
    # N(x; m, s^2) at one standard deviation: exp(-1/2) / (s sqrt(2 pi)).
    nats = vae.gaussian_nats(tf.constant([0.2]), tf.constant([0.3]), standard_deviation=0.1)
    np.testing.assert_allclose(nats, -0.5 - math.log(0.1 * math.sqrt(2 * math.pi)), rtol=1e-5)


def test_with_the_true_posterior_every_weight_is_the_likelihood():
    # p(x, z) / p(z|x) = p(x) whatever z.
    model, nll = linear_gaussian(objective="iwae", samples=3, nll_samples=2)
    images = images_like()
    np.testing.assert_allclose(loss(model, images, small.context(4)), nll(images), rtol=1e-4)
    np.testing.assert_allclose(model.nll_nats(images, Noise(0, 0, 4)), nll(images), rtol=1e-4)


def test_importance_sampling_finds_the_likelihood_from_another_posterior():
    model, nll = linear_gaussian(spread=1.3, nll_samples=4900)
    images = images_like()
    estimated = model.nll_nats(images, Noise(0, 0, 4))
    # From N(0, v) for N(0, 1), E[w^2] = v / sqrt(2v - 1): with v = 1.69, twice, 1.20. So 4,900
    # samples give a standard error of sqrt(.20 / 4900) = .0064 nats.
    np.testing.assert_allclose(estimated, nll(images), atol=0.026)


def test_the_elbo_is_the_bound_of_one_sample_in_expectation():
    # -log w = -log p(x|z) + log q(z|x) - log p(z), whose last two average to the analytic KL.
    settings = {"spread": 1.3, "code_size": 2}
    elbo, _ = linear_gaussian(**settings)
    one_sample, _ = linear_gaussian(objective="iwae", **settings)
    images = np.repeat(images_like(1), 20_000, axis=0)
    of_elbo, of_one = (loss(model, images, small.context(20_000)) for model in (elbo, one_sample))
    difference = of_elbo - of_one
    assert difference.mean() == pytest.approx(0, abs=interval(difference))


def test_samples_of_the_elbo_change_its_spread_and_not_its_mean():
    images = np.repeat(images_like(1), 5000, axis=0)
    one, many = (
        loss(linear_gaussian(samples=samples)[0], images, small.context(5000)) for samples in (1, 9)
    )
    assert many.mean() == pytest.approx(one.mean(), abs=interval(one))
    assert many.std() == pytest.approx(one.std() / 3, rel=0.1)


ESTIMATORS = {
    "path_derivative": {"objective": "elbo", "beta": 0.7},
    "doubly_reparametrised": {"objective": "iwae", "samples": 2},
}


class Nodes:
    """Stands for noise, whose rows are the nodes of a quadrature of samples of one number."""

    def __init__(self, samples, count=40):
        nodes, weights = np.polynomial.hermite_e.hermegauss(count)
        grids = np.meshgrid(*[nodes] * samples)
        self.rows = np.stack(grids, axis=-1).reshape(-1, samples, 1).astype(np.float32)
        products = np.prod(np.meshgrid(*[weights / weights.sum()] * samples), axis=0)
        self.weights = products.ravel().astype(np.float32)

    def normal(self, purpose, shape):
        assert (purpose, shape) == ("code", self.rows.shape[1:])
        return tf.constant(self.rows)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_estimators_have_the_same_gradient_in_expectation(estimator):
    nodes = Nodes(ESTIMATORS[estimator].get("samples", 1))
    images = np.repeat(images_like(1), len(nodes.weights), axis=0)
    expected = {}
    for name in ("standard", estimator):
        settings = {"code_size": 1, "likelihood": "gaussian", "standard_deviation": 1.0}
        settings["binarisation"] = "none"
        model = create(estimator=name, **settings, **ESTIMATORS[estimator])
        with tf.GradientTape() as tape:
            context = small.context(len(images))
            terms = model.loss_terms(images, dataclasses.replace(context, noise=nodes))
            mean = tf.reduce_sum(sum(terms.values()) * nodes.weights)
        expected[name] = mean, *tape.gradient(mean, [v.value for v in model.trainable_variables])
    for ours, theirs in zip(*expected.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_at_the_posterior_every_sample_has_no_gradient_in_the_encoder(estimator):
    settings = ESTIMATORS[estimator] | ({"beta": 1.0} if estimator == "path_derivative" else {})
    norms = []
    for name in ("standard", estimator):
        model, _ = linear_gaussian(estimator=name, **settings)
        with tf.GradientTape() as tape:
            terms = model.loss_terms(images_like(), small.context(4))
            total = tf.reduce_sum(sum(terms.values()))
        variables = [variable.value for variable in model.encoder.trainable_variables]
        norms.append(float(tf.linalg.global_norm(tape.gradient(total, variables))))
    assert norms[1] < 1e-4 * norms[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "network", "devices", "execution"),
    [
        ("path_derivative", "dense", 2, "xla"),
        ("doubly_reparametrised", "dense", 2, "xla"),
        ("doubly_reparametrised", "conv", 1, "xla_products"),
    ],
)
def test_executions_and_replicas_train_alike_by_an_estimator(
    estimator, network, devices, execution, monkeypatch
):
    monkeypatch.setattr(xla, "CUT_SIZE", 3)  # images at a time, of products
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 4, 4, 1)).astype(np.uint8)
    settings = {"estimator": estimator, "network": network} | ESTIMATORS[estimator]
    trained = []
    for mode in ((1, "graph"), (devices, execution)):
        _, steps = adam_steps(lambda: create((4, 4, 1), **settings), *mode)
        losses = steps.train(0, images)["loss"]
        trained.append([losses, *(v.numpy() for v in steps.variables().values())])
    for value, expected in zip(*trained, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_dynamic_binarisation_has_the_pixel_as_its_mean_and_is_drawn_anew():
    model = create()
    pixels = np.array([0, 0.1, 0.5, 0.9, 1, 0.25, 0.75, 0.3, 0.6], np.float32)
    count = 20_000
    images = np.tile(pixels.reshape(1, 3, 3, 1), (count, 1, 1, 1))
    drawn = model.binarised(images, Noise(0, 0, count)).numpy().reshape(count, 9)
    assert set(np.unique(drawn)) == {0, 1}
    error = 4 * np.sqrt(pixels * (1 - pixels) / count)
    assert (np.abs(drawn.mean(axis=0) - pixels) <= error).all()
    epochs = [model.binarised(images[:8], Noise(0, first, 8)).numpy() for first in (0, 0, 8)]
    np.testing.assert_array_equal(epochs[0], epochs[1])
    assert (epochs[0] != epochs[2]).any()


def test_other_pixels_are_taken_as_they_are():
    images = images_like()
    for binarisation in ("static", "none"):
        model = create(binarisation=binarisation)
        np.testing.assert_array_equal(model.binarised(images, Noise(0, 0, 4)), images)


def test_beta_rises_linearly_over_its_share_of_the_training():
    # beta = 2 min(1, progress / share); .1 / .4 of 2 is .5.
    images = images_like()
    for progress, share, weight in ((0.0, 0.4, 0), (0.1, 0.4, 0.5), (0.8, 0.4, 2), (0.0, 0.0, 2)):
        model = create(beta=2.0, beta_warmup_share=share)
        terms = model.loss_terms(images, small.context(4, progress=progress))
        kl = vae.kl_nats(*model.posterior(model.binarised(images, Noise(0, 0, 4))))
        np.testing.assert_allclose(terms["kl_nats"], weight * kl, rtol=1e-5)


def test_either_network_takes_a_code_of_one_number():
    images = images_like(2, (9, 10, 3))
    for network in ("dense", "conv"):
        model = create((9, 10, 3), network=network, code_size=1, stage_filters=(4, 6))
        assert model.encode(images).shape == (2, 1)
        assert model(images).shape == images.shape
        assert np.isfinite(loss(model, images, small.context(2))).all()


def test_an_evaluation_has_the_final_beta():
    model, steps = adam_steps(
        lambda: create(beta_warmup_share=1.0), learning_rate=0.0, batch_size=4
    )
    images = images_like(4)
    seen = model.binarised(images, Noise(0, 0, 4, stream="evaluation"))
    kl = float(tf.reduce_mean(vae.kl_nats(*model.posterior(seen))))
    assert steps.evaluate(images)["loss/kl_nats"] == pytest.approx(kl, rel=1e-5)
    assert steps.train(0, images[np.newaxis])["loss/kl_nats"][0] == 0


def test_the_pixels_must_be_drawn_where_the_model_says_so(tmp_path, digits_config):
    digits_config.model = base.get_config("vae").model
    needs = "data.binarise=True needs model.binarisation='static', not"
    for digits_config.model.binarisation, digits_config.data.binarise, line in (
        ("static", False, "model.binarisation='static' needs data.binarise=True"),
        ("dynamic", True, f"{needs} 'dynamic'"),
        ("none", True, f"{needs} 'none'"),
    ):
        with refused(line, tmp_path):
            train(digits_config, str(tmp_path))
