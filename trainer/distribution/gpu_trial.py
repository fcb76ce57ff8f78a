"""Tries GPUs: computes the operations of a training step on them, in another process.

A GPU that a build of TensorFlow cannot use may end the process. The command
`python -m trainer.distribution.gpu_trial NUMBER ...` exits with 0 if every GPU passes.
"""

import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.errors import UserError, in_one_line, printable
from trainer.storage import user_cache

_SECONDS = 300  # limit of a trial: the driver may compile PTX for a minute or two
_COMMAND = (sys.executable, "-m", "trainer.distribution.gpu_trial")
_BATCH, _INPUTS, _UNITS = 64, 784, 1000  # the size of a small autoencoder
_TOLERANCE = 0.01  # of TF32's products, relative to the largest number


def first_failure(kinds: Mapping[int, str]) -> tuple[int, str] | None:
    """Tries GPUs; returns the number of the first GPU that fails and the reason, or None.

    `kinds` maps the number of each GPU to a text on everything that its success depends on. A file
    in the user's cache marks a text as passed; GPUs of this text are not tried again.

    Raises:
      UserError: no process can be started.
    """
    markers = {number: _marker(kind) for number, kind in kinds.items()}
    untried = {number: path for number, path in markers.items() if not _exists(path)}
    failure = _try(tuple(untried)) if untried else None
    if failure is None:
        for path in filter(None, untried.values()):
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    return failure


def _marker(kind: str) -> Path | None:
    folder = user_cache.folder()
    return folder and folder / re.sub(r"[^\w.]+", "-", f"gpu-trial-{kind}")


def _exists(path: Path | None) -> bool:
    with contextlib.suppress(OSError):
        return path is not None and path.exists()
    return False


@functools.cache
def _try(numbers: Sequence[int]) -> tuple[int, str] | None:
    folder = str(Path(__file__).parents[2])  # lets the child import trainer from any folder
    paths = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    try:
        trial = subprocess.run(
            [*_COMMAND, *map(str, numbers)],
            env=os.environ | {"PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        printed, reason = error.stdout, f"a trial did not end within {_SECONDS} seconds"
    except OSError as error:
        raise UserError(f"a GPU cannot be tried: {in_one_line(error)}") from error
    else:
        if trial.returncode == 0:
            return None
        printed, lines = trial.stdout, trial.stderr.decode(errors="replace").strip().splitlines()
        reason = printable(lines[-1].strip()) if lines else f"a trial ended by {trial.returncode}"
    passed = (printed or b"").decode(errors="replace").split()
    return next((number for number in numbers if str(number) not in passed), numbers[-1]), reason


def main(numbers: list[str]) -> None:
    """Tries the GPUs of these numbers in TensorFlow's list; prints each that passes."""
    from trainer.distribution.xla import set_gpu_flags

    set_gpu_flags()  # so that XLA compiles the kernels of a training
    gpus = tf.config.list_physical_devices("GPU")
    tried = [gpus[int(number)] for number in numbers]
    tf.config.set_visible_devices(tried, "GPU")
    for gpu in tried:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.set_soft_device_placement(False)
    tf.config.experimental.enable_op_determinism()  # chooses the kernels of a training
    tf.random.set_seed(0)
    for index, number in enumerate(numbers):
        compute_on(f"GPU:{index}")
        print(number, flush=True)


def compute_on(device: str) -> None:
    """Computes an elementwise operation, a product, a convolution and a compiled training step.

    Raises:
      ArithmeticError: the device computes other values than NumPy.
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
    """Takes one step of gradient descent on an autoencoder of tied weights and no bias."""
    with tf.GradientTape() as tape:
        codes = tf.nn.relu(images @ weights)
        loss = tf.reduce_sum(tf.square(codes @ tf.transpose(weights) - images)) / _BATCH
    weights.assign_sub(0.1 * tape.gradient(loss, weights))


def _expected_step(weights: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Computes the step of `_compiled_step` in NumPy, by the written-out gradient."""
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
