"""The loss of one layer in its pretraining, and what the pretraining does not touch."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.models import small
from trainer.positions import Noise

SHAPE = (4, 4, 1)
COUNT = 6
SIZES = (7, 5, 3)
OF_KIND: dict[str, dict[str, Any]] = {
    "dense": {"hidden_units": SIZES[:-1], "code_size": SIZES[-1]},
    "contractive": {"hidden_units": SIZES[:-1], "code_size": SIZES[-1]},
    "denoising": {"network": "dense", "layer_sizes": SIZES, "corruption": "masking"},
}


def create(kind, **settings):
    model = small.create(kind, SHAPE, **OF_KIND[kind] | {"activation": "sigmoid"} | settings)
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:  # biases too
        variable.assign(random.normal(size=variable.shape))
    return model


def terms(model, number, images, first=0):
    found = model.layer_pair(number).loss_terms(
        tf.constant(images), small.context(len(images), first)
    )
    return {name: term.numpy() for name, term in found.items()}


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def dense(layer):
    return layer.kernel.numpy().astype(np.float64), layer.bias.numpy()


def first_outputs(model, images):
    kernel, bias = dense(model.encoder.get_layer("hidden_1"))
    return sigmoid(images.reshape(len(images), -1) @ kernel + bias)


def bce(logits, targets):
    return np.mean(np.logaddexp(0, logits) - targets * logits, axis=1)


@pytest.mark.parametrize("kind", OF_KIND)
def test_the_first_layer_is_the_kind_with_one_layer(kind):
    settings: dict[str, Any] = {"hidden_units": (), "code_size": SIZES[0]}
    if kind == "denoising":
        settings = {"layer_sizes": SIZES[:1]}
    stack, one = create(kind), create(kind, code_activation="sigmoid", **settings)
    one.encoder.get_layer("code").set_weights(stack.encoder.get_layer("hidden_1").get_weights())
    one.decoder.get_layer("logits").set_weights(stack.decoder.get_layer("logits").get_weights())
    images, context = small.images_like(COUNT, SHAPE), small.context(COUNT)
    context = dataclasses.replace(context, noise=context.noise.section("layer_0"))
    expected = one.loss_terms(tf.constant(images), context)
    for name, term in terms(stack, 0, images).items():
        np.testing.assert_allclose(term, expected[name], rtol=1e-5)


def test_a_hidden_layer_restores_its_clean_inputs_from_corrupted_ones():
    model = create("denoising", corruption_level=0.4)
    images = small.images_like(COUNT, SHAPE)
    inputs = first_outputs(model, images)
    uniform = Noise(0, 0, COUNT).section("layer_1").uniform("corruption", (SIZES[0],)).numpy()
    kernel, bias = dense(model.encoder.get_layer("hidden_2"))
    back, back_bias = dense(model.decoder.get_layer("hidden_2"))
    codes = sigmoid(np.where(uniform < 0.4, 0, inputs) @ kernel + bias)
    expected = bce(codes @ back + back_bias, inputs)
    np.testing.assert_allclose(terms(model, 1, images)["bce"], expected, rtol=1e-5)
    part = terms(model, 1, images[2:5], first=2)["bce"]  # the noise of an example is its position's
    np.testing.assert_allclose(part, expected[2:5], rtol=1e-5)


def test_layers_of_equal_size_have_noise_of_their_own():
    noise = Noise(0, 5, COUNT)
    drawn = [noise.section(f"layer_{n}").uniform("corruption", (3,)).numpy() for n in range(2)]
    assert not np.isin(drawn[0], drawn[1]).any()


def test_units_that_are_not_sigmoid_have_the_squared_error():
    model = create("dense", activation="tanh")
    images = small.images_like(COUNT, SHAPE)
    kernel, bias = dense(model.encoder.get_layer("hidden_1"))
    inputs = np.tanh(images.reshape(COUNT, -1) @ kernel + bias)
    kernel, bias = dense(model.encoder.get_layer("hidden_2"))
    back, back_bias = dense(model.decoder.get_layer("hidden_2"))
    outputs = np.tanh(np.tanh(inputs @ kernel + bias) @ back + back_bias)
    expected = np.square(outputs - inputs).mean(axis=1)
    np.testing.assert_allclose(terms(model, 1, images)["mse"], expected, rtol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_a_hidden_layer_contracts_by_its_own_jacobian(activation, tied):
    model = create("contractive", activation=activation, tied_weights=tied, penalty_weight=0.5)
    images = small.images_like(COUNT, SHAPE)
    function = sigmoid if activation == "sigmoid" else np.tanh
    inputs = images.reshape(COUNT, -1)
    for name in ("hidden_1", "hidden_2"):
        kernel, bias = dense(model.encoder.get_layer(name))
        inputs, values = function(inputs @ kernel + bias), inputs
    slopes = inputs * (1 - inputs) if activation == "sigmoid" else 1 - inputs**2
    expected = 0.5 * np.square(slopes[:, :, None] * kernel.T).sum(axis=(1, 2))
    found = terms(model, 1, images)
    np.testing.assert_allclose(found["contraction"], expected, rtol=1e-4)
    if tied and activation == "sigmoid":
        logits = inputs @ kernel.T + model.decoder.get_layer("hidden_2").bias.numpy()
        np.testing.assert_allclose(found["bce"], bce(logits, values), rtol=1e-5)


def test_an_error_of_saturated_units_stays_finite_and_has_a_gradient():
    model = create("dense")
    decoder = model.decoder.get_layer("hidden_2")
    decoder.bias.assign(np.full(SIZES[0], 200.0))
    pair = model.layer_pair(1)
    with tf.GradientTape() as tape:
        loss = pair.loss_terms(tf.constant(small.images_like(COUNT, SHAPE)), small.context(COUNT))[
            "bce"
        ]
    assert np.isfinite(loss).all()
    assert np.all(tape.gradient(loss, decoder.bias.value) > 0)
    assert float(decoder(tf.zeros((1, SIZES[1])))[0, 0]) == 1.0  # has its activation again
