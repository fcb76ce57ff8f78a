"""The fastest that a machine could train a net: its arithmetic and its bytes, over what it can do.

Counts what an implementation does that keeps each layer's output in memory, in float32; one that
fuses layers or stays in the caches can move fewer bytes. Arithmetic: a forward product, and in the
backward pass one for the weights and, but in the first layer, one for the inputs. Bytes: Adam reads
weight, gradient and both moments and writes all but the gradient; each layer's output is written,
read by the next layer, and read again in the backward pass.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import TypedDict

import numpy as np

from benchmarks.nets import IMAGE_SHAPE, NETS

_FLOAT_BYTES = 4
_ADAM_PASSES = 7
_ACTIVATION_PASSES = 3
_SIDE = 2048
_COPIED_BYTES = 2**28
_GPU_SIDE = 8192
_GPU_COPIED_BYTES = 2**30
_GPU_COPIES = 10


class Machine(TypedDict):
    """What was measured of a machine."""

    flops_per_second: float
    bytes_per_second: float


def images_per_second(net: str, batch_size: int, machine: Machine) -> float:
    """The bound of a net: the longer of its arithmetic and its bytes."""
    flops, activations, parameters = count(net)
    bytes_an_image = _FLOAT_BYTES * (
        _ACTIVATION_PASSES * activations + _ADAM_PASSES * parameters / batch_size
    )
    return 1 / max(
        flops / machine["flops_per_second"], bytes_an_image / machine["bytes_per_second"]
    )


def count(net: str) -> tuple[int, int, int]:
    """Floating-point operations and activations of an image, and the net's parameters."""
    height, width, channels = IMAGE_SHAPE
    flops, activations, parameters = 0, 0, 0
    for layer in NETS[net]:
        products = 0
        match layer.kind:
            case "dense":
                products = kernel = channels * layer.size
            case "conv":
                height, width = -(-height // layer.stride), -(-width // layer.stride)
                kernel = 9 * channels * layer.size
                products = height * width * kernel
            case "transposed":
                kernel = 9 * channels * layer.size
                products = height * width * kernel
                height, width = height * layer.stride, width * layer.stride
            case "pool":
                height, width = -(-height // 2), -(-width // 2)
            case "up":
                height, width = 2 * height, 2 * width
            case "flatten":
                height, width, channels = 1, 1, height * width * channels
            case "sample":
                channels = layer.size
            case "map":
                height, width, channels = 7, 7, layer.size
        if products:
            flops += 2 * products * (3 if flops else 2)
            parameters += kernel + layer.size
            channels = layer.size
        if layer.kind not in ("flatten", "map"):
            activations += height * width * channels
    return flops, activations, parameters


def measure(precision: str = "float32") -> Machine:
    """The rate of a large matrix product in a precision, and of copying: of a GPU, or all cores.

    On a GPU float32 is without TF32, and "tensorfloat32" with it.
    """
    import tensorflow as tf

    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    side = _GPU_SIDE if on_gpu else _SIDE
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tensorfloat32")
    kind = precision if precision in ("bfloat16", "float16") else "float32"
    with tf.device("GPU:0" if on_gpu else "CPU:0"):
        matrix = tf.cast(tf.random.normal([side, side]), kind)
        # A scalar on the host is there when the device has computed it.
        product = _median_seconds(lambda: tf.matmul(matrix, matrix)[0, 0].numpy())
    copied, copy = _gpu_copy() if on_gpu else _cpu_copy()
    return {
        "flops_per_second": 2 * side**3 / product,
        "bytes_per_second": 2 * copied / _median_seconds(copy),
    }


def _gpu_copy() -> tuple[int, Callable[[], object]]:
    """The bytes that a call reads, and writes as often; the call, which waits for the device."""
    import tensorflow as tf

    with tf.device("GPU:0"):
        numbers = tf.random.uniform([_GPU_COPIED_BYTES // _FLOAT_BYTES])
        factor = tf.random.uniform([])

    def copy() -> None:
        for _ in range(_GPU_COPIES):  # eager operations, each of which reads and writes once
            scaled = numbers * factor
        scaled[0].numpy()

    return _GPU_COPIES * _GPU_COPIED_BYTES, copy


def _cpu_copy() -> tuple[int, Callable[[], object]]:
    """The bytes that a call reads, and writes as often; the call, by a thread a core."""
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
