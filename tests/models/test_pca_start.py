"""A training that starts at PCA: the untrained model is PCA, of any kind that can."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.decomposition import PCA

from configs import base
from tests.models import small
from trainer import data
from trainer.data.pca import TrainingStatistics
from trainer.distribution.strategy import build_model, make_strategy
from trainer.positions import Noise
from trainer.run import workdir
from trainer.training.train import train

SHAPE = (6, 5, 2)
STARTS: dict[str, dict[str, Any]] = {
    "dense": {"hidden_units": (8, 4), "code_size": 3},
    "deep_conv": {"stage_filters": (2, 3), "dense_units": 8, "code_size": 3},
    "conv": {"filters": 2, "code_activation": "linear"},
    "denoising": {"network": "conv", "layer_sizes": (3, 1)},
    "contractive": {"hidden_units": (8,), "code_size": 3, "tied_weights": False},
}


def correlated_images(count=40):
    """Images of few large components."""
    random = np.random.default_rng(0)
    mixed = random.normal(size=(count, 8)) @ random.normal(size=(8, 60))
    return (0.5 + 0.05 * mixed).astype(np.float32).reshape(count, *SHAPE)


def started(kind, images, precision="float32", **settings):
    settings = {"output_activation": "linear", **settings} if kind != "vae" else settings
    model = build_model(
        make_strategy("cpu:1"),
        precision,
        lambda: small.create(kind, images.shape[1:], start="pca", **settings),
    )
    model.initialise(TrainingStatistics(images))
    return model


def pca_of(images, components):
    """The projection of images on their principal components, and those with their scores."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    pca = PCA(components).fit(rows)
    return pca, pca.inverse_transform(pca.transform(rows)).reshape(images.shape)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", STARTS)
def test_the_untrained_model_is_pca(kind, precision):
    images = correlated_images()
    model = started(kind, images, precision, **STARTS[kind])
    expected = pca_of(images, model.code_size)[1]
    np.testing.assert_allclose(model.decode(model.encode(images)), expected, atol=1e-5)
    mean_square = np.square(model.encode(images)).mean()
    np.testing.assert_allclose(mean_square, 1, rtol=1e-4)


@pytest.mark.parametrize("kind", STARTS)
def test_every_weight_of_the_last_layers_learns_at_the_first_step(kind):
    images = correlated_images()
    model = started(kind, images, **STARTS[kind])
    kernels = [w for w in model.trainable_variables if "kernel" in w.path and not w.numpy().any()]
    assert len(kernels) == 2
    with tf.GradientTape() as tape:
        terms = model.loss_terms(tf.constant(images), small.context(len(images)))
        loss = tf.add_n([tf.reduce_mean(term) for term in terms.values()])
    assert all(np.any(g) for g in tape.gradient(loss, [w.value for w in kernels]))


def test_a_vae_starts_at_probabilistic_pca_with_its_exact_posterior():
    # The elbo of the exact posterior is log N(x; mean, W W' + s^2 I); components of less variance
    # than s^2 are not used.
    images, deviation = correlated_images(), 0.3
    settings: dict[str, Any] = {"likelihood": "gaussian", "binarisation": "none", "nll_samples": 10}
    model = started("vae", images, standard_deviation=deviation, code_size=8, **settings)
    pca = pca_of(images, 8)[0]
    variances = pca.explained_variance_ * 39 / 40
    used = variances > deviation**2
    assert 0 < used.sum() < 8
    w = pca.components_[used].T * np.sqrt(variances[used] - deviation**2)
    covariance = w @ w.T + deviation**2 * np.eye(60)
    centred = images.reshape(40, -1) - pca.mean_
    mahalanobis = np.sum(centred @ np.linalg.inv(covariance) * centred, axis=1)
    nll = 0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance)[1])
    np.testing.assert_allclose(model.nll_nats(images, Noise(0, 0, 40)), nll, rtol=1e-4)


def test_a_start_at_pca_with_a_code_as_large_as_an_example_is_warned_of(tmp_path, capsys):
    config = base.get_config("dense")
    config.data.name = "memory"
    config.model.update({"hidden_units": (8,), "code_size": 6, "start": "pca"})
    config.model.update({"output_activation": "linear", "output_bias": "zeros"})
    config.update({"num_epochs": 1.0, "execution": "graph"})
    rows = correlated_images(60).reshape(60, -1)
    for size, warns in ((6, True), (7, False)):
        train(config, str(tmp_path / f"{size}"), rows[:, :size])
        assert ("the network can copy its input" in capsys.readouterr().out) == warns


def test_the_first_checkpoint_has_pcas_validation_error(tmp_path):
    rows = correlated_images(60).reshape(60, -1)
    config = base.get_config("dense")
    config.data.name = "memory"
    config.data.validation_fraction = 0.3
    config.model.update({"hidden_units": (8,), "code_size": 2, "start": "pca"})
    config.model.output_activation = "linear"
    config.update({"num_epochs": 1.0, "quiet": True})
    config.optimizer.learning_rate = 1.0  # ruins the weights at once
    train(config, str(tmp_path / "run"), rows)
    checkpoints = workdir.read(tmp_path / "run").checkpoints
    first, last = checkpoints.find("best"), checkpoints.find("last")
    assert first and last and first.step == 0 < last.step and first.validation_loss
    dataset = data.load(config.data.to_dict(), vectors=rows)
    pca = PCA(2).fit(dataset.train.images)
    held_out = dataset.validation.images
    error = np.square(pca.inverse_transform(pca.transform(held_out)) - held_out).mean()
    np.testing.assert_allclose(first.validation_loss, error, rtol=1e-4)
