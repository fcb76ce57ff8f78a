"""Computes a roofline: the images per second that a machine's arithmetic and bandwidth allow.

Counts the work of an implementation in float32 that keeps each layer's output in memory; fused
layers or large caches can move fewer bytes. Arithmetic: a product in the forward pass, and in the
backward pass a product for the weights and, except in the first layer, another for the inputs.
Bytes: Adam reads weight, gradient and both moments and writes all but the gradient; each layer's
output is written, read by the next layer, and read again in the backward pass.
"""

import math
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import TypedDict

import numpy as np

from benchmarks.nets import IMAGE_SHAPE, NETS, WITH_WEIGHTS, output_shape

_FLOAT_BYTES = 4
_ADAM_PASSES = 7  # over the weights
_ACTIVATION_PASSES = 3
_SIDE = 2048  # of the multiplied matrices
_COPIED_BYTES = 2**28
_GPU_SIDE = 8192
_GPU_COPIED_BYTES = 2**30
_GPU_COPIES = 10


class Machine(TypedDict):
    """Holds the measured rates of a machine."""

    flops_per_second: float
    bytes_per_second: float


def images_per_second(net: str, batch_size: int, machine: Machine) -> float:
    """Returns the limit of a net by its arithmetic or its bytes, whichever take longer."""
    flops, activations, parameters = count(net)
    bytes_per_image = _FLOAT_BYTES * (
        _ACTIVATION_PASSES * activations + _ADAM_PASSES * parameters / batch_size
    )
    return 1 / max(
        flops / machine["flops_per_second"], bytes_per_image / machine["bytes_per_second"]
    )


def count(net: str) -> tuple[int, int, int]:
    """Returns a net's floating-point operations and activations per image, and its parameters."""
    flops, activations, parameters = 0, 0, 0
    shape = IMAGE_SHAPE
    for layer in NETS[net]:
        output = output_shape(layer, shape)
        if layer.kind in WITH_WEIGHTS:
            kernel = (1 if layer.kind == "dense" else 9) * shape[-1] * layer.size
            pixels = shape[:-1] if layer.kind == "transposed" else output[:-1]
            flops += 2 * kernel * math.prod(pixels) * (3 if flops else 2)
            parameters += kernel + layer.size
        if layer.kind not in ("flatten", "map"):
            activations += math.prod(output)
        shape = output
    return flops, activations, parameters


def measure(precision: str = "float32") -> Machine:
    """Measures a large matrix product in a precision, and copying, on the GPU or on all cores.

    On a GPU, "float32" is without TF32 and "tensorfloat32" with it.
    """
    import tensorflow as tf

    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    side = _GPU_SIDE if on_gpu else _SIDE
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tensorfloat32")
    kind = precision if precision in ("bfloat16", "float16") else "float32"
    with tf.device("GPU:0" if on_gpu else "CPU:0"):
        matrix = tf.cast(tf.random.normal([side, side]), kind)
        # Fetching one number waits for the whole product.
        product = _median_seconds(lambda: tf.matmul(matrix, matrix)[0, 0].numpy())
    copied, copy = _gpu_copy() if on_gpu else _cpu_copy()
    return {
        "flops_per_second": 2 * side**3 / product,
        "bytes_per_second": 2 * copied / _median_seconds(copy),
    }


def _gpu_copy() -> tuple[int, Callable[[], object]]:
    """Returns the bytes that a call reads and writes, and the call, which waits for the GPU."""
    import tensorflow as tf

    with tf.device("GPU:0"):
        numbers = tf.random.uniform([_GPU_COPIED_BYTES // _FLOAT_BYTES])
        factor = tf.random.uniform([])

    def copy() -> None:
        for _ in range(_GPU_COPIES):  # each eager operation reads and writes once
            scaled = numbers * factor
        scaled[0].numpy()

    return _GPU_COPIES * _GPU_COPIED_BYTES, copy


def _cpu_copy() -> tuple[int, Callable[[], object]]:
    """Returns the bytes that a call reads and writes, and the call, with a thread per core."""
    cores = os.cpu_count() or 1
    pairs = [np.ones((2, _COPIED_BYTES // cores), np.uint8) for _ in range(cores)]

    def copy_all() -> None:
        threads = [threading.Thread(target=np.copyto, args=(to, of)) for to, of in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return _COPIED_BYTES, copy_all


def _median_seconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(12):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])
