"""The contract over every config, and what single kinds promise."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tests.all_configs import CONFIG_OF, load_config
from trainer import models
from trainer.config import parse_model
from trainer.errors import UserError
from trainer.models.base import StepContext
from trainer.monitoring import figures
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
def test_a_validation_shows_what_the_kind_has(name, image_shape):
    settings = load_config(name).model
    model = create(settings, image_shape)
    noise = Noise(0, 0, 3, stream="evaluation")
    grids = model.validation_images(images_like(image_shape), noise)
    for grid in grids.values():
        assert figures.grid(**vars(grid)).shape[2:] == (3,)
    convolves = settings.name in ("concrete", "conv", "deep_conv")
    convolves |= settings.get("network") == "conv"
    own = {"concrete": {"selected_pixels"}, "vae": {"prior_samples"}}.get(settings.name, set())
    assert grids.keys() == own | (set() if convolves else {"filters"})


def test_a_filter_is_what_a_unit_weighs_the_pixels_by():
    settings = base.get_config("dense").model
    settings.hidden_units = (2,)
    model = create(settings)
    kernel = np.random.default_rng(0).normal(size=(784, 2)).astype(np.float32)
    model.encoder.get_layer("hidden_1").kernel.assign(kernel)
    filters = model.filters()
    np.testing.assert_array_equal(filters.images.reshape(2, 784), kernel.T)
    assert filters.stretch


def test_a_manifold_is_shown_where_the_code_is_a_plane():
    settings = base.get_config("vae").model
    settings.code_size = 2
    model = create(settings)
    noise = Noise(0, 0, 3, stream="evaluation")
    manifold = model.validation_images(images_like(model.image_shape), noise)["manifold"]
    # From the upper left corner, where the second number is the largest: the 1/40 quantile.
    corner = model.decode(np.array([[-1.95996, 1.95996]], np.float32))
    np.testing.assert_allclose(manifold.images[:1], corner, atol=1e-5)
    assert (len(manifold.images), manifold.columns, manifold.gap) == (400, 20, 0)


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_the_loss_is_that_of_the_reconstruction(loss):
    settings = base.get_config("dense").model
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
        (
            base.get_config("linear").model,
            (5, 6, 1),
            "model.code_size=.* an image of 5x6x1 allows 1 to 30",
        ),
        (base.get_config("linear").model, (5,), "model.code_size=.* a vector of 5 feature"),
        (base.get_config("conv").model, (784,), "convolutions need images"),
        (base.get_config("deep_conv").model, (784,), "convolutions need images"),
    ],
)
def test_a_shape_that_a_kind_cannot_take_is_refused(settings, shape, message):
    with pytest.raises(UserError, match=message):
        create(settings, shape)
