"""Compute on GPUs what a training step does; `python -m` exits with 0 where all of it works.

A GPU that a build of TensorFlow cannot use may end the process: hence one of its own.
"""

import sys

import numpy as np
import tensorflow as tf

from trainer.distribution.xla import set_gpu_flags

_BATCH, _INPUTS, _UNITS = 64, 784, 1000  # the size of a small autoencoder
_TOLERANCE = 0.01  # of TF32's products, relative to the largest number


def main(numbers: list[str]) -> None:
    """Try the GPUs of such numbers among those that TensorFlow lists; print each that passes."""
    set_gpu_flags()  # without which XLA compiles other kernels than a training's
    gpus = tf.config.list_physical_devices("GPU")
    tried = [gpus[int(number)] for number in numbers]
    tf.config.set_visible_devices(tried, "GPU")
    for gpu in tried:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.set_soft_device_placement(False)
    tf.config.experimental.enable_op_determinism()  # which chooses other kernels
    tf.random.set_seed(0)
    for index, number in enumerate(numbers):
        compute_on(f"GPU:{index}")
        print(number, flush=True)


def compute_on(device: str) -> None:
    """Compute an elementwise operation, a product, a convolution and a compiled training step.

    Raises:
      ArithmeticError: the device computes other numbers than NumPy.
    """
    random = np.random.default_rng(0)
    images = random.random((_BATCH, _INPUTS), np.float32)
    weights = random.standard_normal((_INPUTS, _UNITS), np.float32) / np.float32(28)
    with tf.device(device):
        _compare("an elementwise operation", tf.nn.relu(tf.constant(images) - 0.5) * 2.0,
                 np.maximum(images - 0.5, 0) * 2)  # fmt: skip
        _compare("a matrix product", tf.constant(images) @ tf.constant(weights), images @ weights)
        ones = tf.ones((2, 8, 8, 4)), tf.ones((3, 3, 4, 8))
        _compare("a convolution", tf.nn.conv2d(*ones, 1, "VALID"), np.full((2, 6, 6, 8), 36.0))
        trained = tf.Variable(weights)
        _compiled_step(trained, tf.constant(images))
        _compare("a compiled training step", trained, _expected_step(weights, images))


@tf.function(jit_compile=True)
def _compiled_step(weights, images):
    """Take one step of gradient descent on an autoencoder of tied weights and no bias."""
    with tf.GradientTape() as tape:
        codes = tf.nn.relu(images @ weights)
        loss = tf.reduce_sum(tf.square(codes @ tf.transpose(weights) - images)) / _BATCH
    weights.assign_sub(0.1 * tape.gradient(loss, weights))


def _expected_step(weights: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the same in NumPy, whose gradient is written out."""
    codes = np.maximum(images @ weights, 0)
    errors = 2 / _BATCH * (codes @ weights.T - images)
    through_decoder = errors.T @ codes
    through_encoder = images.T @ ((errors @ weights) * (codes > 0))
    return weights - 0.1 * (through_decoder + through_encoder)


def _compare(what: str, computed: tf.Tensor, expected: np.ndarray) -> None:
    error = np.abs(np.asarray(computed) - expected).max() / np.abs(expected).max()
    if not error < _TOLERANCE:  # NaN too
        raise ArithmeticError(f"{what} is wrong by {error:.2g}")


if __name__ == "__main__":
    main(sys.argv[1:])
