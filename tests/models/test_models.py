"""The contract over every config, and what single kinds promise."""

import contextlib
import itertools
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tests.all_configs import CONFIG_OF, load_config, settings_of
from tests.models.small import OF_THE_BATCH, context, images_like
from tests.verbs.refusals import refused
from trainer import models
from trainer.config import parse_model
from trainer.data.pca import TrainingStatistics
from trainer.models.base import Autoencoder, with_gradient_of
from trainer.models.dropout import dropout
from trainer.monitoring import figures
from trainer.positions import Noise

CLOSED_FORM = {"jacobian": "closed_form", "hidden_units": (), "code_activation": "sigmoid"}
FROM_PCA = {"start": "pca", "output_activation": "linear"}
AUXILIARY = {"auxiliary_weight": 0.1}
VARIANTS = [*CONFIG_OF.values(), "sparse_kl", "vae"]  # of each kind one; and other loss terms


def create(settings, image_shape=(28, 28, 1)):
    keras.utils.set_random_seed(0)
    return models.create(image_shape, parse_model(settings.to_dict()))


def overrides(model, method):
    return getattr(type(model), method) is not getattr(Autoencoder, method)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_kind_keeps_the_contract(name):
    settings, image_shape = load_config(name).model, (30, 27, 3)  # no side can be halved twice
    model = create(settings, image_shape)
    images = images_like(3, image_shape)
    codes = model.encode(images)
    rebuilt = model.decode(codes)
    assert codes.shape == (3, model.code_size)
    assert rebuilt.shape == (3, *image_shape)
    assert codes.dtype == rebuilt.dtype == tf.float32
    assert np.isfinite(rebuilt).all()
    paths = [variable.path for variable in model.variables]
    assert len(set(paths)) == len(paths)

    grids = model.validation_images(images, Noise(0, 0, 3, stream="evaluation"))
    for grid in grids.values():
        assert figures.labelled_grid("mine", **vars(grid)).shape[2:] == (3,)
    has_prior = model.prior_codes(Noise(0, 0, 3)) is not None
    assert has_prior or settings.name != "vae"
    drawn = {"prior_samples": has_prior, "manifold": model.manifold() is not None}
    drawn["filters"] = model.filters() is not None
    usual = {tag for tag, is_drawn in drawn.items() if is_drawn}
    assert usual <= grids.keys()
    assert usual == grids.keys() or overrides(model, "validation_images")
    first = next(layer for layer in model.encoder.layers if layer.weights)
    is_dense = isinstance(first, keras.layers.Dense)
    assert drawn["filters"] == is_dense or overrides(model, "filters")


@contextlib.contextmanager
def drawn_once():
    """Fails if noise is drawn twice under one purpose: the numbers are equal, not independent."""
    drawn = set()
    unit = Noise._unit

    def record(noise, purpose, elements):
        key = (noise._stream, str(noise._first_position), purpose)
        assert key not in drawn, f"the noise {purpose!r} is drawn twice; name two purposes"
        drawn.add(key)
        return unit(noise, purpose, elements)

    with mock.patch.object(Noise, "_unit", record):
        yield


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_terms_are_float32_and_belong_to_their_examples(name):
    model = create(load_config(name).model)
    images = images_like(4, model.image_shape)
    statistics = model.statistics(images)
    means = None if statistics is None else tf.reduce_mean(statistics, 0)
    shared = {"batch_means": means, "batch_values": model.shared_values(images)}
    terms = []
    for i, j in ((0, 4), (0, 2), (2, 4)):
        with drawn_once():
            terms.append(model.loss_terms(images[i:j], context(j - i, i, **shared, first_row=i)))
    whole, *parts = terms
    for term, values in whole.items():
        assert values.shape == (4,)
        assert values.dtype == tf.float32
        together = tf.concat([part[term] for part in parts], 0)
        np.testing.assert_allclose(values, together, rtol=1e-5, err_msg=f"{term}: {OF_THE_BATCH}")


def test_a_noise_that_is_drawn_twice_is_found():
    noise = Noise(0, 0, 3)
    with drawn_once():
        noise.uniform("a", (2,))
        noise.normal("b", (2,))
        noise.section("c").uniform("a", (2,))
        noise.of(1).uniform("a", (2,))
    with pytest.raises(AssertionError, match="'a' is drawn twice"), drawn_once():
        noise.uniform("a", (2,))
        noise.normal("a", (2,))


def test_the_loss_is_that_of_the_reconstruction():
    settings = base.get_config("dense").model
    images = images_like(3, (28, 28, 1))
    for settings.loss in ("mse", "bce"):
        model = create(settings)
        rebuilt = model(images).numpy().astype(np.float64)
        expected = {
            "mse": (rebuilt - images) ** 2,
            "bce": -images * np.log(rebuilt) - (1 - images) * np.log(1 - rebuilt),
        }[settings.loss]
        terms = model.loss_terms(images, context(3))
        assert list(terms) == [settings.loss]
        mean = expected.mean(axis=(1, 2, 3))
        np.testing.assert_allclose(terms[settings.loss], mean, rtol=1e-5)


def test_dropout_is_that_of_the_hidden_units_in_training_alone():
    settings = base.get_config("dense").model
    settings.dropout = 0.5
    model = create(settings, (6, 6, 1))
    images = tf.constant(images_like(4, model.image_shape))
    rows, noise = images, Noise(0, 7, 4)
    for network, part in ((model.encoder, noise), (model.decoder, noise.section("decoder"))):
        for layer in network.layers:
            rows = layer(rows)
            if layer.name.startswith("hidden"):
                rows = dropout(rows, 0.5, part, f"{layer.name}_dropout")
    trained, evaluated = (
        model.loss_terms(images, context(4, 7, training=training))["mse"]
        for training in (True, False)
    )
    np.testing.assert_allclose(trained, model.error(rows, images), rtol=1e-5)
    clean = model.error(model.decoder(model.encode(images)), images)
    np.testing.assert_array_equal(evaluated, clean)
    assert (trained != clean).numpy().all()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_output_bias_alone_gives_the_mean_example(name):
    settings = load_config(name).model
    settings.output_bias = "data"
    model = create(settings, (8, 8, 2))
    images = 0.05 + 0.9 * images_like(50, (8, 8, 2)) ** 2
    images[:, 0] = 0
    model.initialise(TrainingStatistics(images))
    bias = model.decoder.get_layer("logits").bias
    for weights in model.trainable_variables:
        if weights is not bias:
            weights.assign(tf.zeros(weights.shape))
    mean = images.mean(axis=0)
    if bias.shape == (2,):  # convolutions have one for each channel
        mean = np.broadcast_to(mean.mean(axis=(0, 1)), mean.shape)
    elif model.output_activation == "sigmoid":
        mean = np.maximum(mean, 0.001)
    np.testing.assert_allclose(model(images[:1])[0], mean, atol=1e-5)


def test_networks_have_the_layers_of_their_papers():
    conv, deep = (create(load_config(name).model) for name in ("conv", "deep"))
    assert (conv.count_params(), conv.code_size) == (620, 7 * 7 * 1)
    down = list(itertools.pairwise((784, 1000, 500, 250, 30)))
    assert [kernel.shape for kernel in deep.weights[::2]] == down + [(b, a) for a, b in down[::-1]]


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
    manifold = model.validation_images(images_like(3, model.image_shape), noise)["manifold"]
    # From the upper left corner, where the second number is the largest: the 1/40 quantile.
    corner = model.decode(np.array([[-1.95996, 1.95996]], np.float32))
    np.testing.assert_allclose(manifold.images[:1], corner, atol=1e-5)
    assert (len(manifold.images), manifold.columns, manifold.gap) == (400, 20, 0)


REFUSED: list[Any] = [  # a kind, the shape of its images, settings, and what the line names
    ("linear", (5, 6, 1), {}, "an image of 5x6x1 allows 1 to 30"),
    ("linear", (5,), {}, "a vector of 5 feature(s) allows 1 to 5"),
    ("conv", (784,), {}, "convolutions need images"),
    ("deep_conv", (784,), {}, "convolutions need images"),
    ("concrete", (5,), {"code_size": 6}, "model.code_size=6"),
    ("concrete", (5,), {"last_temperature": 11.0}, "model.last_temperature=11"),
    ("concrete", (5,), {"loss": "bce"}, "model.output_activation='sigmoid'"),
    ("contractive", (5,), CLOSED_FORM | {"hidden_units": (7,)}, "not (7,) and 'sigmoid'"),
    ("contractive", (5,), CLOSED_FORM | {"code_activation": "tanh"}, "not () and 'tanh'"),
    ("denoising", (5,), {"layer_sizes": ()}, "model.layer_sizes=()"),
    ("sparse", (5,), {"active_units": 999}, "model.active_units=999 and model.first_active_units="),
    ("sparse", (5,), {"first_active_units": 9999}, "code_size="),
    ("sparse", (5,), {"alpha": 9999.0}, "allow 1 to "),
    ("sparse", (5,), {"sparsity": "kl"}, "model.code_activation='sigmoid', not 'linear'"),
    ("sparse", (5,), {"sparsity": "jumprelu", "code_activation": "relu"}, "'linear', not 'relu'"),
    ("sparse", (5,), {"sparsity": "batch_topk", "alpha": 3.0}, "model.alpha=1, not 3.0"),
    ("sparse", (5,), {"sparsity": "batch_topk", "active_units": 999}, "model.active_units=999"),
    ("sparse", (5,), AUXILIARY | {"sparsity": "batch_topk"}, "='k_sparse', not 'batch_topk'"),
    ("sparse", (5,), AUXILIARY | {"sparsity": "l1"}, "model.sparsity='k_sparse', not 'l1'"),
    ("sparse", (5,), AUXILIARY | {"hidden_units": (7,)}, "model.hidden_units=(), not (7,)"),
    ("vae", (5,), {"likelihood": "gaussian", "binarisation": "static"}, "not 'static'"),
    ("vae", (5,), {"likelihood": "gaussian"}, "not 'dynamic'"),
    ("vae", (5,), {"objective": "iwae", "beta": 0.5}, "model.beta=1"),
    ("vae", (5,), {"objective": "iwae", "estimator": "path_derivative"}, "not 'iwae'"),
    ("vae", (5,), {"estimator": "doubly_reparametrised"}, "model.objective='iwae'"),
    ("dense", (5,), {**FROM_PCA, "output_bias": "data"}, "model.output_bias='zeros'"),
    ("dense", (5,), {"dropout": 0.5, "hidden_units": ()}, "model.dropout=0.5"),
]


def test_settings_that_contradict_each_other_or_the_shape_are_refused_in_one_line():
    for kind, shape, changes, named in REFUSED:
        with refused(named):
            models.create(shape, settings_of(kind, **changes))


def test_values_keep_their_bits_with_the_gradient_of_others():
    rng = np.random.default_rng(0)
    means, statistics = (tf.constant(rng.random(n), tf.float32) for n in ((5,), (40, 5)))
    with tf.GradientTape() as tape:
        tape.watch([means, statistics])
        values = with_gradient_of(means, statistics)
        total = tf.reduce_sum(tf.square(values))
    np.testing.assert_array_equal(values, np.tile(means, (40, 1)))
    of_means, of_statistics = tape.gradient(total, [means, statistics])
    assert of_means is None
    np.testing.assert_allclose(of_statistics, np.tile(2 * means.numpy(), (40, 1)), rtol=1e-6)
