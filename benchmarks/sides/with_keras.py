"""Trains in Keras: by the article's script, and by `fit` tuned for speed."""

import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.nets import IMAGE_SHAPE, NETS, Layer
from benchmarks.sides import clock

_STEPS_A_CALL = 100
_IMAGES_A_CALL = 16_384


def measure(way: str, net: str, batch_size: int, seconds: float) -> float:
    """Returns images per second of `fit`.

    "article" takes one step per call, "fit" up to 100, "fit_xla" the same compiled by XLA.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    pixels = clock.images() / np.float32(255)
    stack = [*map(keras_layer, NETS[net]), layers.Reshape(IMAGE_SHAPE)]
    if net == "vae":
        stack.insert(0, _Binarise())
    model = keras.Sequential([keras.Input(IMAGE_SHAPE), *stack])
    # A whole number of calls, since XLA would compile a shorter last one separately.
    images_a_call = len(pixels) if tf.config.list_physical_devices("GPU") else _IMAGES_A_CALL
    fitting = max(1, min(_STEPS_A_CALL, images_a_call // batch_size))
    steps_a_call = 1 if way == "article" else fitting
    steps = len(pixels) // batch_size // steps_a_call * steps_a_call
    model.compile(
        optimizer="adam",
        loss=_nats if net == "vae" else "mean_squared_error",
        steps_per_execution=steps_a_call,
        jit_compile="auto" if way == "article" else way == "fit_xla",
    )
    timer = _Timer(seconds)
    used = pixels[: steps * batch_size]
    model.fit(used, used, batch_size=batch_size, epochs=10**6, verbose=0, callbacks=[timer])
    return timer.calls_a_second * steps_a_call * batch_size


def _nats(images, logits):
    return keras.ops.sum(keras.ops.softplus(logits) - images * logits, axis=(1, 2, 3))


class _Binarise(layers.Layer):
    """Draws binary pixels with the intensities as probabilities."""

    def __init__(self):
        super().__init__()
        self._seeds = keras.random.SeedGenerator(0)

    def call(self, images):
        uniform = keras.random.uniform(keras.ops.shape(images), seed=self._seeds)
        return keras.ops.cast(uniform < images, "float32")


class _Sample(layers.Layer):
    """Samples the posterior from its mean and log variance; adds its KL divergence to the loss."""

    def __init__(self):
        super().__init__()
        self._seeds = keras.random.SeedGenerator(1)

    def call(self, inputs):
        ops = keras.ops
        mean, log_variance = ops.split(inputs, 2, axis=-1)
        kl = ops.sum(ops.square(mean) + ops.exp(log_variance) - log_variance - 1, axis=-1) / 2
        self.add_loss(ops.mean(kl))
        noise = keras.random.normal(ops.shape(mean), seed=self._seeds)
        return mean + ops.exp(log_variance / 2) * noise


class _Timer(keras.callbacks.Callback):
    """Measures the rate of the calls after the second one, then stops the training."""

    def __init__(self, seconds: float):
        super().__init__()
        self._seconds = seconds
        self._calls = -2
        self._began = 0.0
        self.calls_a_second = 0.0

    def on_train_batch_end(self, batch, logs=None):
        del batch, logs
        self._calls += 1
        if self._calls == 0:
            self._began = time.perf_counter()
        elif self._calls >= 3 and time.perf_counter() - self._began > self._seconds:
            self.calls_a_second = self._calls / (time.perf_counter() - self._began)
            self.model.stop_training = True


def keras_layer(layer: Layer) -> layers.Layer:
    """Returns the Keras layer for a description."""
    same = {"padding": "same", "activation": layer.activation}
    match layer.kind:
        case "dense":
            return layers.Dense(layer.size, layer.activation)
        case "conv":
            return layers.Conv2D(layer.size, 3, layer.stride, **same)
        case "transposed":
            return layers.Conv2DTranspose(layer.size, 3, layer.stride, **same)
        case "pool":
            return layers.MaxPooling2D(layer.stride, padding="same")
        case "up":
            return layers.UpSampling2D(layer.stride)
        case "flatten":
            return layers.Flatten()
        case "sample":
            return _Sample()
    return layers.Reshape((7, 7, layer.size))
