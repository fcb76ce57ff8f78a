"""Small models that draw noise or need batch means, and their steps on logical CPUs."""

import keras
import numpy as np
import tensorflow as tf

from tests.all_configs import load_config
from tests.steps import adam_steps
from trainer import models
from trainer.config import parse_model
from trainer.distribution import optimizers
from trainer.models.base import Autoencoder, with_gradient_of

BATCH = 8
SHAPE = (6, 6, 1)


class Noisy(Autoencoder):
    """Adds noise to its input and its code, as the kinds that draw noise do."""

    def loss_terms(self, images, context):
        noise = context.noise
        noisy = images + 0.1 * noise.normal("corruption", self.image_shape)
        codes = tf.cast(self.encode(noisy), tf.float32) + noise.uniform("code", (self.code_size,))
        error = tf.reduce_mean(tf.square(self.decode(codes) - images), [1, 2, 3])
        return {"mse": error, "l1": 1e-3 * tf.reduce_sum(tf.abs(codes), axis=1)}


class MeanCode(Autoencoder):
    """Pulls the mean of each code unit over the global batch to .3."""

    def statistics(self, images):
        return tf.cast(self.encode(images), tf.float32)

    def loss_terms(self, images, context):
        means = with_gradient_of(context.batch_means, self.statistics(images))
        error = super().loss_terms(images, context)
        return error | {"mean": tf.reduce_sum(tf.square(means - 0.3), axis=1)}


class PairedCodes(Autoencoder):
    """Pushes the codes of each pair of the global batch apart."""

    def shared_values(self, images):
        return tf.cast(self.encode(images), tf.float32)

    def loss_terms(self, images, context):
        terms = super().loss_terms(images, context)
        if context.batch_values is None:
            return terms
        near = nearness(self.shared_values(images), context.batch_values)
        return terms | {"near": with_gradient_of(near, 2 * near)}


def nearness(codes, others):
    """The mean nearness of each code [B, K] to the others [N, K], [B]."""
    squares = tf.reduce_sum(tf.square(codes[:, tf.newaxis] - others), axis=2)
    return tf.reduce_mean(tf.exp(-squares), axis=1)


def small(kind=Noisy):
    layers = keras.layers
    encoder = [layers.Flatten(), layers.Dense(5, "tanh", name="code")]
    decoder = [layers.Dense(36, name="out"), layers.Reshape(SHAPE, dtype="float32")]
    return kind(
        SHAPE,
        keras.Sequential([keras.Input(SHAPE), *encoder], name="encoder"),
        keras.Sequential([keras.Input((5,)), *decoder], name="decoder"),
        loss="mse",
        output_activation="sigmoid",
    )


def model_of(name, shape=(28, 28, 1), **changes):
    settings = load_config(name).model.to_dict() | changes
    return models.create(shape, parse_model(settings))


def small_conv():
    # The code has one channel, which relu may leave at 0.
    return model_of("conv", (12, 12, 1), code_activation="linear")


def make_steps(devices=1, execution="graph", *, create=small, **settings):
    keras.utils.set_random_seed(0)
    schedule = optimizers.learning_rate_schedule(
        "cosine", learning_rate=1e-2, warmup_steps=2, last_step=20
    )
    usual = {"learning_rate": schedule, "batch_size": BATCH, "seed": 3, "last_step": 20}
    return adam_steps(create, devices, execution, **usual | settings)


def images_like(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def weights_of(steps):
    return {path: variable.numpy() for path, variable in steps.variables().items()}


def trained(images, *arguments, **keywords):
    """The weights of a model after some steps from the first on."""
    _, steps = make_steps(*arguments, **keywords)
    steps.train(0, images)
    return weights_of(steps)


def assert_close(actual, expected, tolerance=1e-5, why=""):
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        message = f"{path} {why}"
        np.testing.assert_allclose(actual[path], value, rtol=0, atol=tolerance, err_msg=message)
