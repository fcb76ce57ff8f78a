"""Corruption, restoration and what they are compared with."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.all_configs import load_config, settings_of
from tests.steps import adam_steps
from trainer import models
from trainer.models.base import StepContext
from trainer.positions import Noise

SHAPE = (6, 6, 1)


def create(image_shape=SHAPE, **changes):
    keras.utils.set_random_seed(0)
    settings = settings_of("denoising", **{"layer_sizes": (8, 4)} | changes)
    return models.create(image_shape, settings)


def images_like(count, image_shape=SHAPE):
    return np.random.default_rng(0).random((count, *image_shape), np.float32)


def corrupted(images, corruption, level, first=0):
    model = create(images.shape[1:], corruption=corruption, corruption_level=level)
    return model.corrupted(images, Noise(0, first, len(images))).numpy()


def assert_share(found, expected):
    """Within 5 standard deviations of a binomial share."""
    assert abs(found.mean() - expected) <= 5 * math.sqrt(expected * (1 - expected) / found.size)


@pytest.mark.parametrize(
    ("corruption", "ends"), [("masking", (0.3, 0)), ("salt_and_pepper", (0.15, 0.15))]
)
def test_a_share_of_the_pixels_is_set_to_0_or_1_and_the_others_stay(corruption, ends):
    images = 0.1 + 0.8 * images_like(500)
    seen = corrupted(images, corruption, 0.3)
    for end, share in enumerate(ends):
        assert_share(seen == end, share)
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
    rows = model.reconstruction_rows(images, noise)
    assert list(rows) == ["original", "corrupted", "code", "reconstruction"]
    np.testing.assert_array_equal(rows["corrupted"], model.corrupted(images, noise))
    np.testing.assert_array_equal(rows["reconstruction"], model(rows["corrupted"]))
    np.testing.assert_array_equal(model.encode(images), model.encoder(images))


def test_the_conv_network_is_that_of_keras_io():
    # 3x3 kernels: 1 to 32 channels 320 with the bias, 32 to 32 9,248, thrice, and 32 to 1 289.
    model = create((28, 28, 1), **load_config("denoising").model.to_dict())
    assert model.count_params() == 320 + 3 * 9248 + 289 == 28_353
    assert model.code_size == 7 * 7 * 32


def test_a_network_has_the_layers_that_its_settings_name():
    for network, layer_sizes in (("dense", (2, 3, 4)), ("conv", (5,)), ("conv", (2, 3, 4))):
        model = create((10, 7, 3), network=network, layer_sizes=layer_sizes)
        images = images_like(2, (10, 7, 3))
        assert model(images).shape == images.shape
        layers = [layer for layer in model.encoder.layers if layer.weights]
        sizes = [layer.units if network == "dense" else layer.filters for layer in layers]
        assert tuple(sizes) == layer_sizes


@pytest.mark.parametrize(
    ("network", "execution", "precision"),
    [("dense", "xla", "float16"), ("conv", "graph", "bfloat16")],
)
def test_both_networks_learn_to_restore_in_half_precision(network, execution, precision):
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
