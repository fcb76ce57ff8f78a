"""Makes the strategy of a training, and builds models on its replicas."""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import keras
import tensorflow as tf

from trainer import models
from trainer.config import ModelSettings
from trainer.distribution import private_api, xla
from trainer.distribution.devices import check_devices, parameters_within_memory, within_memory
from trainer.distribution.variables import require_tracked
from trainer.errors import UserError
from trainer.models.base import Autoencoder

Strategy: TypeAlias = tf.distribute.Strategy
_Model = TypeVar("_Model")

_POLICIES = {
    "float32": "float32",
    "tensorfloat32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
PRECISIONS = tuple(_POLICIES)


def make_strategy(name: str, workers: int = 1) -> Strategy:
    """Returns the strategy of a training, on this machine or on all workers of TF_CONFIG.

    "auto", "mirrored" and "multi_worker" use every GPU, or the CPU where there is none; "cpu:N"
    uses N logical CPU devices. A single worker gets a MirroredStrategy, several a
    MultiWorkerMirroredStrategy, which waits for all of them. Two calls for the same devices return
    the same strategy.

    Raises:
      UserError: as `check_devices`, or TensorFlow has begun with other devices.
    """
    devices = check_devices(name, workers)
    if name.startswith("cpu:"):
        _hide_gpus(name)
    return _strategy_on(devices.kind, devices.count, workers)


def make_inference_strategy() -> Strategy:
    """Returns a strategy of one device, the first GPU or the CPU, for a trained model.

    Raises:
      UserError: TensorFlow cannot use a GPU.
    """
    return _strategy_on(check_devices("auto", workers=1).kind, 1, 1)


def leave_other_gpus() -> None:
    """Hides all GPUs but the first from this process, unless TensorFlow has begun to use them."""
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices(tf.config.get_visible_devices("GPU")[:1], "GPU")


def enable_determinism() -> None:
    """Makes all operations give the same bits each time; must precede the first collective.

    NVLink switches (NVLS) sum over GPUs in hardware, in an order that may vary: NCCL is kept to
    other algorithms, unless the user has chosen some.
    """
    tf.config.experimental.enable_op_determinism()
    os.environ.setdefault("NCCL_ALGO", "^NVLS,NVLSTree")


def build_autoencoder(
    strategy: Strategy,
    precision: str,
    image_shape: tuple[int, ...],
    settings: ModelSettings,
    numbers_each: int = 1,
) -> Autoencoder:
    """Creates an autoencoder from its settings on the replicas, as `build_model` does."""
    return build_model(
        strategy, precision, lambda: models.create(image_shape, settings), numbers_each
    )


def build_model(
    strategy: Strategy, precision: str, create: Callable[[], _Model], numbers_each: int = 1
) -> _Model:
    """Creates a model on the replicas: arithmetic in the precision, weights in float32.

    `numbers_each` counts what is kept for each parameter: itself and, in a training, its gradient
    and the optimizer's slots.

    "float32" multiplies in float32 on every device. "tensorfloat32" differs on NVIDIA GPUs from
    Ampere on, whose matrix units then keep 10 bits of each factor's mantissa.

    Raises:
      UserError: the memory is too small, or what `create` raises.
      TypeError: as `require_tracked`, a mistake in the code of a kind.
    """
    set_matrix_precision(precision)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        with (
            within_memory(),
            strategy.scope(),
            parameters_within_memory(strategy, numbers_each),
        ):
            model = create()
    finally:
        keras.config.set_dtype_policy(before)
    if isinstance(model, keras.Layer):  # a SoftmaxLayer is not
        require_tracked(model)
    return model


def set_matrix_precision(precision: str) -> None:
    """Lets this process multiply matrices in TensorFloat-32 or not; `build_model` does so too."""
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tensorfloat32")


@functools.cache
def _strategy_on(kind: str, count: int, workers: int) -> Strategy:
    """Returns the one strategy of this process for such devices of each worker.

    A second strategy of the same devices would number its collectives from 0 again, and TensorFlow
    would mix up the gradients of their models.
    """
    if kind == "CPU":
        return _strategy_on_cpus(count, workers)
    _prepare_gpus()
    if workers > 1:
        by_nccl = tf.distribute.experimental.CommunicationOptions(
            implementation=tf.distribute.experimental.CommunicationImplementation.NCCL
        )
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=by_nccl)
    strategy = tf.distribute.MirroredStrategy([f"GPU:{number}" for number in range(count)])
    if count == 1:
        private_api.use_merge_call(strategy)
    return strategy


def _strategy_on_cpus(count: int, workers: int) -> Strategy:
    # TensorFlow's collectives allow one number of CPU devices in the life of a process.
    cpus = _logical_cpus(count)
    if workers == 1:
        reduction = tf.distribute.ReductionToOneDevice()
        return tf.distribute.MirroredStrategy(cpus, cross_device_ops=reduction)
    with private_api.on_logical_cpus(cpus):
        return tf.distribute.MultiWorkerMirroredStrategy()


def _prepare_gpus() -> None:
    """Sets XLA's flags and lets GPU memory grow, unless TensorFlow has begun in this process."""
    xla.set_gpu_flags()
    for gpu in tf.config.get_visible_devices("GPU"):
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def _hide_gpus(name: str) -> None:
    """Keeps unplaced operations off the GPUs of a machine whose CPU is to be used."""
    if not tf.config.get_visible_devices("GPU"):
        return
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError as error:
        raise UserError(
            f"strategy={name!r} comes too late: TensorFlow uses the GPUs of this process already"
        ) from error


def _logical_cpus(count: int) -> list[str]:
    """Returns the names of logical CPU devices, made unless TensorFlow has begun without them."""
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
