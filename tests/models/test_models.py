"""The contract over every config, and what single kinds promise."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.decomposition import PCA

from configs import base
from tests.all_configs import CONFIG_OF, load_config
from trainer import models
from trainer.config import parse_model
from trainer.errors import UserError
from trainer.models.base import Measured, StepContext
from trainer.models.linear.model import principal_components
from trainer.positions import Noise

SHAPES = [(28, 28, 1), (30, 27, 3)]
VARIANTS = [*CONFIG_OF.values(), "sparse_kl", "vae"]  # of each kind one; and other loss terms


def create(settings, image_shape=(28, 28, 1)):
    keras.utils.set_random_seed(0)
    return models.create(image_shape, parse_model(settings.to_dict()))


def context(first, count, **settings):
    return StepContext(Noise(0, first, count), progress=tf.constant(0.5), training=True, **settings)


def images_like(image_shape, count=3):
    return np.random.default_rng(0).random((count, *image_shape), np.float32)


@pytest.mark.parametrize("image_shape", SHAPES)
@pytest.mark.parametrize("name", VARIANTS)
def test_codes_and_reconstructions_have_their_shapes(name, image_shape):
    model = create(load_config(name).model, image_shape)
    codes = model.encode(images_like(image_shape))
    rebuilt = model.decode(codes)
    assert codes.shape == (3, model.code_size)
    assert rebuilt.shape == (3, *image_shape)
    assert codes.dtype == rebuilt.dtype == tf.float32
    assert np.isfinite(rebuilt).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_terms_are_float32_and_belong_to_their_examples(name):
    model = create(load_config(name).model)
    images = images_like(model.image_shape, 4)
    statistics = model.statistics(images)
    means = None if statistics is None else tf.reduce_mean(statistics, 0)
    whole = model.loss_terms(images, context(0, 4, batch_means=means))
    parts = [model.loss_terms(images[i : i + 2], context(i, 2, batch_means=means)) for i in (0, 2)]
    for term, values in whole.items():
        assert values.shape == (4,)
        assert values.dtype == tf.float32
        together = tf.concat([part[term] for part in parts], 0)
        np.testing.assert_allclose(values, together, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variable_has_a_path_of_its_own(name):
    paths = [variable.path for variable in create(load_config(name).model).variables]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("image_shape", SHAPES)
@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_watched_at_a_validation_is_one_picture_of_each_kind(name, image_shape):
    model = create(load_config(name).model, image_shape)
    noise = Noise(0, 0, 3, stream="evaluation")
    shown = model.validation_pictures(images_like(image_shape), noise)
    for picture in shown.values():
        assert picture.dtype == np.uint8
        assert picture.shape[2:] == (3,)
    convolves = load_config(name).model.name in ("concrete", "conv", "deep_conv")
    convolves |= load_config(name).model.get("network") == "conv"
    own = {"concrete": {"selected_pixels"}, "vae": {"prior_samples"}}
    expected = own.get(load_config(name).model.name, set())
    assert shown.keys() == expected | (set() if convolves else {"filters"})


def test_a_filter_is_what_a_unit_weighs_the_pixels_by():
    settings = base.dense()
    settings.hidden_units = (2,)
    model = create(settings)
    kernel = np.zeros((784, 2), np.float32)
    kernel[0, 0], kernel[28 * 3 + 5, 1] = 1, -1
    model.encoder.get_layer("hidden_1").kernel.assign(kernel)
    filters = model.filters()
    assert filters[0, 0].tolist() == [255] * 3
    assert filters[:28, :28].sum() == 3 * 255
    second = filters[:28, 30:58]  # after a gap
    assert second[3, 5].tolist() == [0] * 3
    assert (second == 0).sum() == 3


def test_a_manifold_is_watched_where_the_code_is_a_plane():
    settings = base.vae()
    settings.code_size = 2
    model = create(settings)
    noise = Noise(0, 0, 3, stream="evaluation")
    shown = model.validation_pictures(images_like(model.image_shape), noise)
    assert shown["manifold"].shape == (20 * 28, 20 * 28, 3)


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_the_loss_is_that_of_the_reconstruction(loss):
    settings = base.dense()
    settings.loss = loss
    model = create(settings)
    images = images_like(model.image_shape)
    rebuilt = model(images).numpy().astype(np.float64)
    expected = {
        "mse": (rebuilt - images) ** 2,
        "bce": -images * np.log(rebuilt) - (1 - images) * np.log(1 - rebuilt),
    }[loss]
    terms = model.loss_terms(images, context(0, 3))
    assert list(terms) == [loss]
    np.testing.assert_allclose(terms[loss], expected.mean(axis=(1, 2, 3)), rtol=1e-5)


def test_the_articles_net_has_its_620_parameters_and_its_49_numbers():
    model = create(load_config("conv").model)
    assert model.count_params() == 620
    assert model.code_size == 7 * 7 * 1


@pytest.mark.parametrize(
    ("name", "layers"), [("dense", (784, 128, 64, 32)), ("deep", (784, 1000, 500, 250, 30))]
)
def test_dense_networks_are_mirrored(name, layers):
    sizes = [kernel.shape for kernel in create(load_config(name).model).weights[::2]]
    down = list(itertools.pairwise(layers))
    assert sizes == down + [(b, a) for a, b in reversed(down)]


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (base.linear(), (5, 6, 1), "model.code_size=.* an image of 5x6x1 allows 1 to 30"),
        (base.linear(), (5,), "model.code_size=.* a vector of 5 feature"),
        (base.conv(), (784,), "convolutions need images"),
        (base.deep_conv(), (784,), "convolutions need images"),
    ],
)
def test_a_shape_that_a_kind_cannot_take_is_refused(settings, shape, message):
    with pytest.raises(UserError, match=message):
        create(settings, shape)


def test_principal_components_are_recovered_from_any_basis_of_their_span():
    # Data of variances 36, 25, ..., 1 along the axes of a random rotation; the decoder's columns
    # span the first three axes, mixed by a random matrix.
    random = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(random.normal(size=(6, 6)))
    images = random.normal(size=(5000, 6)) * np.arange(6, 0, -1) @ rotation.T
    pca = PCA(3).fit(images)
    decoder_map = pca.components_.T @ random.normal(size=(3, 3))
    recovered = principal_components(decoder_map, images)
    np.testing.assert_allclose(np.abs(np.sum(recovered * pca.components_, 1)), 1, atol=1e-6)


def measured(images, pca):
    def unused(*_):
        raise AssertionError

    return Measured(images, images, np.zeros((len(images), 1)), pca, unused, unused)


def test_a_linear_model_that_is_pca_is_measured_as_pca():
    settings = base.linear()
    settings.code_size = 3
    model = create(settings, (4, 4, 1))
    images = images_like((4, 4, 1), 100)
    pca = PCA(3).fit(images.reshape(100, 16))
    model.decoder.get_layer("logits").kernel.assign(pca.components_)
    metrics = model.own_metrics(measured(images, pca))
    assert metrics["largest_angle_degrees"] == pytest.approx(0, abs=1e-2)
    np.testing.assert_allclose(metrics["component_cosines"], 1, atol=1e-5)
    # Turning one of the three directions out of the subspace by 30 degrees.
    turned = pca.components_.copy()
    outside = np.linalg.svd(pca.components_)[2][-1]
    angle = math.radians(30)
    turned[0] = math.cos(angle) * turned[0] + math.sin(angle) * outside
    model.decoder.get_layer("logits").kernel.assign(turned)
    assert model.own_metrics(measured(images, pca))["largest_angle_degrees"] == pytest.approx(
        30, abs=1e-2
    )
