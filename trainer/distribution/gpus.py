"""Checks which NVIDIA GPUs this build of TensorFlow can use, and says why not others."""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import re
import sys
from pathlib import Path

import tensorflow as tf

from trainer.distribution import gpu_trial
from trainer.errors import UserError, require

Version = tuple[int, ...]

_BLACKWELL = (10, 0)  # compute capability
_TURING = (7, 5)
_CUDNN_OF_TURING = (9, 11)  # the first version without kernels for older GPUs than Turing
_CUDNN = "nvidia-cudnn-cu12"  # a dependency of pip install .[cuda]
_WAY_OUT = "CUDA_VISIBLE_DEVICES hides it"
_DRIVER_OF_GPUS = Path("/proc/driver/nvidia/gpus")
_DRIVER_OF_WSL = Path("/usr/lib/wsl/lib/libcuda.so.1")


def check_gpus() -> int:
    """Returns the number of visible GPUs, having checked that TensorFlow can use them.

    A GPU that `set_visible_devices` hides is neither counted nor checked. Numbers in messages are
    positions in TensorFlow's list of physical GPUs, hidden ones included.

    The kernels of the build, the driver and cuDNN decide which generations can be used. This build
    has no kernels of its own for Blackwell, where a trial in another process decides, once for
    each kind of GPU, build and driver. A file in the user's cache marks a trial that has passed.

    Raises:
      UserError: TensorFlow cannot use a visible GPU; the line says why and what to do.
    """
    visible = tf.config.get_visible_devices("GPU")
    on_trial: dict[int, str] = {}
    kinds: dict[int, str] = {}
    for number, gpu in enumerate(tf.config.list_physical_devices("GPU")):
        details = tf.config.experimental.get_device_details(gpu) if gpu in visible else {}
        capability = details.get("compute_capability")
        if capability is None:  # hidden, or another maker's
            continue
        model = details.get("device_name", "")
        name = f"GPU {number} ({model}, compute capability {_dotted(capability)})"
        if capability < _BLACKWELL:
            _check_kernels(name, capability)
            continue
        on_trial[number] = name
        cuda = _dotted(driver_cuda_version() or ())
        kinds[number] = f"{tf.__version__}-cuda{cuda}-{model}-{_dotted(capability)}"
    failure = gpu_trial.first_failure(kinds)
    if failure:
        number, reason = failure
        raise UserError(
            f"this build of TensorFlow ({tf.__version__}) cannot use {on_trial[number]}: {reason}. "
            f"{_WAY_OUT}; such a GPU needs driver 570 or later"
        )
    return len(visible)


def unusable_gpu_note() -> str | None:
    """Returns a line on a GPU of this machine that TensorFlow does not list, or None."""
    machine_has_gpu = _DRIVER_OF_WSL.exists() and Path("/dev/dxg").exists()  # of any maker
    with contextlib.suppress(OSError):
        machine_has_gpu |= any(_DRIVER_OF_GPUS.iterdir())
    if not machine_has_gpu or all_hidden() or tf.config.list_physical_devices("GPU"):
        return None
    driver, needed = driver_cuda_version(), _cuda_of_build()
    if _installed(_CUDNN) is None:
        way_out = "install TensorFlow's CUDA libraries: pip install .[cuda]"
    elif driver is None:
        way_out = (
            "NVIDIA's driver (libcuda.so.1) cannot be loaded; a container is given it by --gpus=all"
        )
    elif needed and driver[0] < needed[0]:
        way_out = f"the driver has CUDA {_dotted(driver)}; update it to CUDA {needed[0]}.0 or later"
    else:
        way_out = "update the driver, and see what TensorFlow prints with TF_CPP_MIN_LOG_LEVEL=0"
    return f"this machine has an NVIDIA GPU that TensorFlow cannot use; {way_out}"


def all_hidden() -> bool:
    """Returns whether CUDA_VISIBLE_DEVICES hides every GPU; CUDA ends the list at "" and "-1"."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.split(",")[0].strip() in ("", "-1")


def driver_cuda_version() -> Version | None:
    """Returns the newest CUDA version that NVIDIA's driver supports, or None without a driver."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else (version.value // 1000, version.value % 1000 // 10)


def _check_kernels(name: str, capability: Version) -> None:
    """Raises UserError if a GPU before Blackwell has no kernels; warns if some are missing."""
    targets = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])
    found = [re.fullmatch(r"sm_(\d+)(\d)a?", target) for target in targets]
    built_for = sorted((int(match[1]), int(match[2])) for match in found if match)
    if not built_for:
        return
    require(
        capability >= built_for[0],
        f"TensorFlow {tf.__version__} has no kernels for {name}; it needs compute capability "
        f"{_dotted(built_for[0])} or more. {_WAY_OUT}",
    )
    driver, needed = driver_cuda_version(), _cuda_of_build()
    # A binary runs only on GPUs of its major number; on others the driver compiles PTX.
    from_ptx = not any(major == capability[0] for major, _ in built_for)
    require(
        not (from_ptx and driver and needed and driver < needed),
        f"TensorFlow {tf.__version__} can use {name} only with a driver of CUDA "
        f"{_dotted(needed or ())} or later, which compiles its kernels; this one has CUDA "
        f"{_dotted(driver or ())}. Update the driver; {_WAY_OUT}",
    )
    cudnn = _version(_installed(_CUDNN) or "")
    if capability < _TURING and (cudnn is None or cudnn >= _CUDNN_OF_TURING):
        cannot = "cannot" if cudnn else "may not be able to"  # of the system's cuDNN
        _warn(
            f"{name} {cannot} train models with convolutions: cuDNN "
            f"{_dotted(_CUDNN_OF_TURING)} and later needs compute capability {_dotted(_TURING)}. "
            "Models of dense layers are not affected"
        )


def _cuda_of_build() -> Version | None:
    """Returns the CUDA version that compiled this build; a driver must understand its PTX."""
    return _version(tf.sysconfig.get_build_info().get("cuda_version", ""))


def _installed(package: str) -> str | None:
    """Returns the version of a package that pip has installed, or None."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _version(text: str) -> Version | None:
    numbers = re.match(r"(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


@functools.cache
def _warn(line: str) -> None:
    """Prints a warning, once in a process."""
    print(f"warning: {line}", file=sys.stderr, flush=True)
