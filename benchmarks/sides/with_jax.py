"""Trains in JAX: many steps as one `lax.scan`, or a jitted step per call; images on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.nets import IMAGE_SHAPE, NETS, WITH_WEIGHTS, Layer, output_shape
from benchmarks.sides import clock

_STEPS_A_CALL = 100
_IMAGES_A_CALL = 16_384
_BETA_1, _BETA_2, _EPSILON, _RATE = 0.9, 0.999, 1e-7, 1e-3


def measure(way: str, net: str, batch_size: int, seconds: float) -> float:
    """Returns images per second; the weights are donated and so updated in place."""
    pixels = jnp.asarray(clock.images())
    stack = NETS[net]
    weights = _weights(stack)
    state = weights, *(jax.tree.map(jnp.zeros_like, weights) for _ in range(2)), jnp.zeros(())

    def loss_of(weights, batch, key):
        if net != "vae":
            return jnp.mean(jnp.square(_apply(stack, weights, batch).reshape(batch.shape) - batch))
        for_pixels, for_code = jax.random.split(key)
        seen = jax.random.bernoulli(for_pixels, batch).astype(jnp.float32)
        sample = next(number for number, layer in enumerate(stack) if layer.kind == "sample")
        mean, log_variance = jnp.split(_apply(stack[:sample], weights, seen), 2, axis=-1)
        kl = (mean**2 + jnp.exp(log_variance) - log_variance - 1).sum(-1) / 2
        code = mean + jnp.exp(log_variance / 2) * jax.random.normal(for_code, mean.shape)
        encoding = sum(layer.kind == "dense" for layer in stack[:sample])
        logits = _apply(stack[sample + 1 :], weights[encoding:], code).reshape(batch.shape)
        nats = (jax.nn.softplus(logits) - batch * logits).sum((1, 2, 3))
        return jnp.mean(nats + kl)

    def step(state, positions, pixels):
        weights, first, second, count = state
        batch = pixels[positions].astype(jnp.float32) / 255
        key = jax.random.fold_in(jax.random.key(1), count.astype(jnp.int32))
        loss, gradients = jax.value_and_grad(loss_of)(weights, batch, key)
        count += 1
        first = jax.tree.map(lambda m, g: _BETA_1 * m + (1 - _BETA_1) * g, first, gradients)
        second = jax.tree.map(lambda v, g: _BETA_2 * v + (1 - _BETA_2) * g * g, second, gradients)
        rate = _RATE * jnp.sqrt(1 - _BETA_2**count) / (1 - _BETA_1**count)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) + _EPSILON), weights, first, second
        )
        return (weights, first, second, count), loss

    one = jax.jit(step, donate_argnums=0)

    @functools.partial(jax.jit, donate_argnums=0)
    def scan(state, order, pixels):
        return lax.scan(lambda state, positions: step(state, positions, pixels), state, order)

    generator = np.random.default_rng(0)
    steps_a_call = min(_STEPS_A_CALL, _IMAGES_A_CALL // batch_size)

    def steps() -> int:
        nonlocal state
        order = generator.integers(0, len(pixels), (steps_a_call, batch_size), np.int32)
        if way == "jax_scan":
            state, losses = scan(state, order, pixels)
        else:
            for positions in order:
                state, losses = one(state, positions, pixels)
        losses.block_until_ready()
        return order.size

    return clock.rate(steps, seconds)


def _weights(stack: list[Layer]) -> list[tuple[jax.Array, jax.Array]]:
    """Returns kernel (Glorot uniform) and bias (0) of each layer that has weights."""
    keys = iter(jax.random.split(jax.random.key(0), len(stack)))
    shape = IMAGE_SHAPE
    weights = []
    for layer in stack:
        if layer.kind in WITH_WEIGHTS:
            window = () if layer.kind == "dense" else (3, 3)
            kernel = (*window, shape[-1], layer.size)
            initial = jax.nn.initializers.glorot_uniform()(next(keys), kernel)
            weights.append((initial, jnp.zeros(layer.size)))
        shape = output_shape(layer, shape)
    return weights


_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda x: x,
}
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _apply(stack: list[Layer], weights: list, x: jax.Array) -> jax.Array:
    left = iter(weights)
    for layer in stack:
        stride = (layer.stride, layer.stride)
        match layer.kind:
            case "dense":
                kernel, bias = next(left)
                x = x @ kernel + bias
            case "conv":
                kernel, bias = next(left)
                x = lax.conv_general_dilated(x, kernel, stride, "SAME", dimension_numbers=_LAYOUT)
                x += bias
            case "transposed":
                kernel, bias = next(left)
                x = lax.conv_transpose(x, kernel, stride, "SAME", dimension_numbers=_LAYOUT) + bias
            case "pool":
                window = (1, *stride, 1)
                x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "SAME")
            case "up":
                x = jnp.repeat(jnp.repeat(x, layer.stride, 1), layer.stride, 2)
            case "flatten":
                x = x.reshape(len(x), -1)
            case "map":
                x = x.reshape(len(x), 7, 7, layer.size)
        x = _ACTIVATIONS[layer.activation](x)
    return x
