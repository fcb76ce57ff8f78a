"""Corruption, restoration and what they are compared with."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.decomposition import PCA

from configs import base
from tests.all_configs import load_config
from tests.steps import adam_steps
from trainer import models
from trainer.errors import UserError
from trainer.evaluation.evaluate import evaluate
from trainer.models.base import Measured, StepContext
from trainer.models.denoising.model import LEVELS, projection_errors
from trainer.positions import Noise
from trainer.train import train

SHAPE = (6, 6, 1)


def create(image_shape=SHAPE, **changes):
    keras.utils.set_random_seed(0)
    settings = base.denoising().to_dict() | {"layer_sizes": (8, 4)} | changes
    return models.create(image_shape, **settings)


def images_like(count, image_shape=SHAPE):
    return np.random.default_rng(0).random((count, *image_shape), np.float32)


def corrupted(images, corruption, level, first=0):
    model = create(images.shape[1:], corruption=corruption, corruption_level=level)
    return model.corrupted(images, Noise(0, first, len(images))).numpy()


def assert_share(found, expected):
    """Within 5 standard deviations of a binomial share."""
    found = np.asarray(found)
    assert abs(found.mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / found.size)


def test_masking_sets_a_share_of_the_pixels_to_0_and_leaves_the_others():
    images = 0.1 + 0.8 * images_like(500)
    seen = corrupted(images, "masking", 0.3)
    assert_share(seen == 0, 0.3)
    np.testing.assert_array_equal(seen[seen != 0], images[seen != 0])


def test_salt_and_pepper_are_as_frequent():
    images = 0.1 + 0.8 * images_like(500)
    seen = corrupted(images, "salt_and_pepper", 0.3)
    assert_share(seen == 0, 0.15)
    assert_share(seen == 1, 0.15)
    kept = (seen != 0) & (seen != 1)
    np.testing.assert_array_equal(seen[kept], images[kept])


def test_gaussian_noise_has_its_deviation_and_is_cut():
    # At 0.5 with deviation 0.4, a pixel is cut to 1 where a normal number exceeds 0.5 / 0.4, and
    # to 0 as often: the share is erfc(1.25 / sqrt 2) / 2 = 0.1056. With 0.1, 5 deviations are left.
    images = np.full((500, *SHAPE), 0.5, np.float32)
    seen = corrupted(images, "gaussian", 0.4)
    for end in (0, 1):
        assert_share(seen == end, math.erfc(1.25 / math.sqrt(2)) / 2)
    little = corrupted(images, "gaussian", 0.1)
    assert little.mean() == pytest.approx(0.5, abs=5 * 0.1 / math.sqrt(images.size))
    assert little.std() == pytest.approx(0.1, rel=5 / math.sqrt(2 * images.size))


@pytest.mark.parametrize("corruption", ["masking", "salt_and_pepper", "gaussian"])
def test_each_example_has_new_noise_each_time_and_none_at_level_0(corruption):
    images = np.full((3, *SHAPE), 0.5, np.float32)
    seen = corrupted(images, corruption, 0.5)
    again = corrupted(images, corruption, 0.5, first=3)
    assert len(np.unique(np.concatenate([seen, again]).reshape(6, -1), axis=0)) == 6
    np.testing.assert_array_equal(corrupted(images, corruption, 0.5, first=1)[0], seen[1])
    np.testing.assert_array_equal(corrupted(images, corruption, 0.0), images)


def test_the_loss_is_that_of_the_corrupted_image_against_the_clean_one():
    model = create(loss="mse")
    images = images_like(4)
    noise = Noise(0, 7, 4)
    terms = model.loss_terms(images, StepContext(noise, tf.constant(0.0), training=True))
    restored = model(model.corrupted(images, noise)).numpy()
    assert list(terms) == ["mse"]
    np.testing.assert_allclose(terms["mse"], ((restored - images) ** 2).mean((1, 2, 3)), rtol=1e-5)
    assert np.abs(terms["mse"] - ((model(images) - images) ** 2).numpy().mean((1, 2, 3))).min() > 0


def test_a_picture_shows_what_the_model_saw_but_features_are_of_clean_images():
    model = create()
    images, noise = images_like(3), Noise(0, 0, 3)
    rows = model.rows(images, noise)
    assert list(rows) == ["original", "corrupted", "code", "reconstruction"]
    np.testing.assert_array_equal(rows["corrupted"], model.corrupted(images, noise))
    np.testing.assert_array_equal(rows["reconstruction"], model(rows["corrupted"]))
    np.testing.assert_array_equal(model.encode(images), model.encoder(images))


def test_the_conv_network_is_that_of_keras_io():
    # 3x3 kernels: 1 to 32 channels 320 with the bias, 32 to 32 9,248, thrice, and 32 to 1 289.
    model = create((28, 28, 1), **load_config("denoising").model.to_dict())
    assert model.count_params() == 320 + 3 * 9248 + 289 == 28_353
    assert model.code_size == 7 * 7 * 32


@pytest.mark.parametrize("layer_sizes", [(5,), (2, 3, 4)])
@pytest.mark.parametrize("network", ["dense", "conv"])
def test_a_network_has_any_number_of_layers(network, layer_sizes):
    model = create((10, 7, 3), network=network, layer_sizes=layer_sizes)
    images = images_like(2, (10, 7, 3))
    assert model(images).shape == images.shape
    sizes = [layer.units if network == "dense" else layer.filters
             for layer in model.encoder.layers if layer.weights]  # fmt: skip
    assert tuple(sizes) == layer_sizes


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("network", "execution"),
    [("dense", "graph"), ("dense", "xla"), ("conv", "graph")],
)
def test_both_networks_learn_to_restore_however_they_are_computed(network, precision, execution):
    _, steps = adam_steps(
        lambda: create(network=network, loss="bce"),
        execution=execution,
        precision=precision,
        learning_rate=1e-2,
        last_step=30,
    )
    images = np.repeat(images_like(8)[np.newaxis] > 0.7, 30, axis=0).astype(np.float32)
    losses = steps.train(0, images)["loss"]
    assert losses[-5:].mean() < 0.95 * losses[:5].mean()


@pytest.mark.parametrize("components", [3, 36])
def test_the_error_of_a_projection_is_that_of_its_image(components):
    images = images_like(200)
    noisy = corrupted(images, "gaussian", 0.3)
    pca = PCA(components).fit(images.reshape(200, -1))
    errors = projection_errors(pca, images, noisy)
    assert len(errors) == components + 1
    for number in range(components + 1):
        basis = pca.components_[:number]
        projected = pca.mean_ + (noisy.reshape(200, -1) - pca.mean_) @ basis.T @ basis
        expected = np.mean((projected - images.reshape(200, -1)) ** 2)
        assert errors[number] == pytest.approx(expected, rel=1e-4)


def measured(images):
    pca = PCA(10).fit(images.reshape(len(images), -1))
    return Measured(
        train=images,
        test=images,
        test_codes=np.zeros((len(images), 1)),
        pca=pca,
        map_batches=lambda function, rows: function(rows).numpy(),
        map_noisy_batches=lambda function, rows: function(rows, Noise(0, 0, len(rows))).numpy(),
    )


def test_a_masked_image_has_the_error_of_what_was_masked():
    # E (m x - x)^2 = level E x^2, where m is 0 with the chance `level`.
    images = images_like(2000)
    metrics = create(corruption="masking", corruption_level=0.25).own_metrics(measured(images))
    power = np.square(images).mean()
    assert metrics["noisy_mse"] == pytest.approx(0.25 * power, rel=0.02)
    assert metrics["levels"] == list(LEVELS)
    np.testing.assert_allclose(metrics["noisy_mse_at_levels"], np.array(LEVELS) * power, rtol=0.02)


def test_a_model_is_measured_on_corrupted_images_against_clean_ones():
    images = images_like(300)
    model = create(corruption_level=0.4)
    metrics = model.own_metrics(measured(images))
    noisy = model.corrupted(images, Noise(0, 0, 300))
    restored = model(noisy).numpy().astype(np.float64)
    assert metrics["denoised_mse"] == pytest.approx(np.mean((restored - images) ** 2), rel=1e-5)
    entropy = images * np.log(restored) + (1 - images) * np.log(1 - restored)
    assert metrics["denoised_bce"] == pytest.approx(-entropy.mean(), rel=1e-5)
    # As good as the mean image at least, since no component at all is allowed too.
    variance = images.var(axis=0, dtype=np.float64).mean()
    assert metrics["noisy_pca_mse"] <= variance * (1 + 1e-5)
    for name in ("denoised_mse", "denoised_bce", "noisy_mse", "noisy_pca_mse"):
        assert len(metrics[f"{name}_at_levels"]) == len(LEVELS)
        assert metrics[f"{name}_at_levels"][LEVELS.index(0.4)] == metrics[name]
    pictures = model.own_pictures(measured(images), metrics)
    assert list(pictures) == ["denoising_levels"]
    assert pictures["denoising_levels"].dtype == np.uint8
    assert pictures["denoising_levels"].ndim == 3


def test_a_run_with_a_code_larger_than_the_image_is_measured(digits_config, tmp_path):
    digits_config.data.name = "noise:300"
    digits_config.model = base.denoising()
    digits_config.model.layer_sizes = (800,)
    train(digits_config, str(tmp_path))
    metrics = evaluate(str(tmp_path))
    assert "mse_to_pca" not in metrics  # PCA would keep all there is
    assert metrics["denoised_mse"] > 0
    assert (tmp_path / "denoising_levels.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "rnn"}, "model.network='rnn' is not known; allowed: dense, conv"),
        ({"corruption": "rain"}, "allowed: masking, salt_and_pepper, gaussian"),
        ({"corruption_level": 1.5}, "model.corruption_level=1.5 is not allowed; it must be in"),
        ({"layer_sizes": ()}, "model.layer_sizes=() is not allowed"),
        ({"layer_sizes": (8, 0)}, "model.layer_sizes=(8, 0) is not allowed"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(change, message):
    with pytest.raises(UserError) as error:
        create(**change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
