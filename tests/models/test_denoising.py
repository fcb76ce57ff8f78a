"""Corruption, restoration and what they are compared with."""

import math

import numpy as np
import pytest

from tests.all_configs import load_config
from tests.models import small
from trainer.positions import Noise

SHAPE = (6, 6, 1)


def create(image_shape=SHAPE, **settings):
    return small.create("denoising", image_shape, **{"layer_sizes": (8, 4)} | settings)


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
    images = 0.1 + 0.8 * small.images_like(500, SHAPE)
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


def test_each_example_has_new_noise_each_time_and_none_at_level_0():
    images = np.full((3, *SHAPE), 0.5, np.float32)
    for corruption in ("masking", "salt_and_pepper", "gaussian"):
        seen, again, shifted = (corrupted(images, corruption, 0.5, first) for first in (0, 3, 1))
        assert len(np.unique(np.concatenate([seen, again]).reshape(6, -1), axis=0)) == 6
        np.testing.assert_array_equal(shifted[0], seen[1])
        np.testing.assert_array_equal(corrupted(images, corruption, 0.0), images)


def test_the_loss_is_that_of_the_corrupted_image_against_the_clean_one():
    model = create(loss="mse")
    images = small.images_like(4, SHAPE)
    terms = model.loss_terms(images, small.context(4, first=7))
    restored = model(model.corrupted(images, Noise(0, 7, 4))).numpy()
    assert list(terms) == ["mse"]
    np.testing.assert_allclose(terms["mse"], ((restored - images) ** 2).mean((1, 2, 3)), rtol=1e-5)
    assert np.abs(terms["mse"] - ((model(images) - images) ** 2).numpy().mean((1, 2, 3))).min() > 0


def test_a_picture_shows_what_the_model_saw_but_features_are_of_clean_images():
    model = create()
    images, noise = small.images_like(3, SHAPE), Noise(0, 0, 3)
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
        images = small.images_like(2, (10, 7, 3))
        assert model(images).shape == images.shape
        layers = [layer for layer in model.encoder.layers if layer.weights]
        sizes = [layer.units if network == "dense" else layer.filters for layer in layers]
        assert tuple(sizes) == layer_sizes
