"""The strategy of a training: on which devices its replicas are, and models built on them."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeVar

import keras
import tensorflow as tf

from trainer.distribution import private_api
from trainer.errors import UserError, require, require_choice

Strategy: TypeAlias = tf.distribute.Strategy
_Model = TypeVar("_Model")

_STRATEGIES = ("auto", "mirrored", "multi_worker")
_TOO_NEW = (10, 0)  # compute capability: TensorFlow's builds have no kernels, and XLA crashes
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@dataclasses.dataclass(frozen=True)
class Devices:
    """A number of devices of one kind, "CPU" or "GPU"."""

    kind: str
    count: int

    def __str__(self) -> str:
        return f"{self.kind} x {self.count}"


def check_devices(name: str, workers: int) -> Devices:
    """What a strategy of that name would have on this machine; starts nothing.

    Raises:
      UserError: the name is not known or not for so many workers, or TensorFlow cannot drive a GPU.
    """
    kind, colon, count = name.partition(":")
    logical_cpus = kind == "cpu" and count.isdecimal() and int(count) > 0
    require(
        logical_cpus or (kind in _STRATEGIES and not colon),
        f"strategy={name!r} is not known; allowed: {', '.join(_STRATEGIES)}, "
        "cpu:N with N at least 1",
    )
    require(
        kind != "multi_worker" or workers > 1,
        "strategy='multi_worker' needs TF_CONFIG to name several workers; launch/ sets it",
    )
    require(
        kind != "mirrored" or workers == 1,
        f"strategy='mirrored' is of one machine, but TF_CONFIG names {workers} workers; "
        "strategy=auto takes them all",
    )
    if logical_cpus:
        return Devices("CPU", int(count))
    gpus = tf.config.list_physical_devices("GPU")
    for number, gpu in enumerate(gpus):
        details = tf.config.experimental.get_device_details(gpu)
        require(
            details.get("compute_capability", (0, 0)) < _TOO_NEW,
            f"TensorFlow {tf.__version__} cannot drive GPU {number}, "
            f"{details.get('device_name')}, of compute capability "
            f"{'.'.join(map(str, details.get('compute_capability', ())))}; it must be below "
            f"{_TOO_NEW[0]}.{_TOO_NEW[1]}. CUDA_VISIBLE_DEVICES hides it",
        )
    return Devices("GPU", len(gpus)) if gpus else Devices("CPU", 1)


def make_strategy(name: str, workers: int = 1) -> Strategy:
    """The replicas: on every GPU, else the CPU, of this machine or of all workers of TF_CONFIG.

    One worker has a MirroredStrategy, several a MultiWorkerMirroredStrategy, which waits for all of
    them. "auto", "mirrored" and "multi_worker" take what there is, "cpu:N" N logical CPU devices.

    Raises:
      UserError: as `check_devices`, or TensorFlow has begun with fewer CPU devices.
    """
    devices = check_devices(name, workers)
    if devices.kind == "GPU":
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        if workers == 1:
            return tf.distribute.MirroredStrategy()
        by_nccl = tf.distribute.experimental.CommunicationOptions(
            implementation=tf.distribute.experimental.CommunicationImplementation.NCCL
        )
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=by_nccl)
    # TensorFlow's collectives allow one number of CPU devices in the life of a process.
    cpus = _logical_cpus(devices.count)
    if workers == 1:
        reduction = tf.distribute.ReductionToOneDevice()
        return tf.distribute.MirroredStrategy(cpus, cross_device_ops=reduction)
    with private_api.on_logical_cpus(cpus):
        return tf.distribute.MultiWorkerMirroredStrategy()


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Raises UserError, which says what did not fit, where a device has too little memory."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        wanted = re.search(r"tensor with shape\[[\d,]*\] and type \w+", str(error))
        raise UserError(
            f"the memory is too small{f' for a {wanted[0]}' if wanted else ''}; a smaller "
            "model or batch_size takes less"
        ) from error


def build_model(strategy: Strategy, precision: str, create: Callable[[], _Model]) -> _Model:
    """Creates a model on the replicas, its arithmetic in the precision, its weights in float32.

    Raises:
      UserError: the precision is not known, the memory too small, or what `create` raises.
    """
    require_choice("precision", precision, tuple(_POLICIES))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        with within_memory(), strategy.scope():
            return create()
    finally:
        keras.config.set_dtype_policy(before)


def describe_devices(strategy: Strategy) -> str:
    """The kind and number of the devices of all workers, as "CPU x 2"."""
    first = strategy.extended.worker_devices[0]
    kind = tf.DeviceSpec.from_string(first).device_type
    return str(Devices(kind, strategy.num_replicas_in_sync))


def _logical_cpus(count: int) -> list[str]:
    """The names of `count` logical CPU devices, which must be made before TensorFlow's first op."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or []
    if len(configured) < count and count > 1:
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
        except RuntimeError as error:
            raise UserError(f"strategy='cpu:{count}' comes too late in this process") from error
    return [f"CPU:{number}" for number in range(count)]
