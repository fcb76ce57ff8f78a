"""NVIDIA GPUs: which of them this build of TensorFlow can use, and what stands in its way."""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

from trainer.errors import UserError, in_one_line, printable, require

Version = tuple[int, int]

_BLACKWELL = (10, 0)  # compute capability
_TURING = (7, 5)
_CUDNN_OF_TURING = (9, 11)  # the first that has no kernels for older GPUs
_CUDNN = "nvidia-cudnn-cu12"  # which pip install .[cuda] brings
_TRIAL_SECONDS = 300  # of which the driver may compile PTX for a minute or two
_LISTING_SECONDS = 20  # that nvidia-smi may take
_TRIAL = (sys.executable, "-m", "trainer.distribution.gpu_trial")
_WAY_OUT = "CUDA_VISIBLE_DEVICES hides it"
_DRIVER_OF_GPUS = Path("/proc/driver/nvidia/gpus")
_DRIVER_OF_WSL = Path("/usr/lib/wsl/lib/libcuda.so.1")


def check_gpus() -> int:
    """Return the number of visible GPUs, having checked that TensorFlow can use them.

    A GPU that `set_visible_devices` hides is neither counted nor checked. Numbers in messages are
    positions in TensorFlow's list of physical GPUs, hidden ones included.

    Which generations a build can use follows from its kernels, the driver and cuDNN; for
    Blackwell, which this build has no kernels of its own for, a trial in another process decides,
    once for each kind of GPU, build and driver: a file in the user's cache marks a passed one.

    Raises:
      UserError: TensorFlow cannot use one of them; the line says why and what to do.
    """
    visible = tf.config.get_visible_devices("GPU")
    on_trial, markers = [], set()
    for number, gpu in enumerate(tf.config.list_physical_devices("GPU")):
        if gpu not in visible:
            continue
        details = tf.config.experimental.get_device_details(gpu)
        capability = details.get("compute_capability")
        if capability is None:  # another maker's
            continue
        name = (
            f"GPU {number} ({details.get('device_name')}, compute capability {_dotted(capability)})"
        )
        if capability < _BLACKWELL:
            _check_kernels(name, capability)
            continue
        marker = _marker_of_trial(details.get("device_name", ""), capability)
        if not _exists(marker):
            on_trial.append((number, name))
            markers.add(marker)
    if on_trial:
        refusal = _refusal_of_trial(tuple(on_trial))
        require(not refusal, refusal)
        _mark_passed(markers)
    return len(visible)


def unusable_gpu_note() -> str | None:
    """Return a line on a GPU of this machine that TensorFlow does not list, or None."""
    if tf.config.list_physical_devices("GPU") or all_hidden() or not _machine_has_gpu():
        return None
    driver = driver_cuda_version()
    needed = _cuda_of_build()
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
    """Say whether CUDA_VISIBLE_DEVICES hides every GPU: CUDA ends its list at "" and "-1"."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.split(",")[0].strip() in ("", "-1")


def driver_cuda_version() -> Version | None:
    """Return the newest CUDA version that NVIDIA's driver supports, or None without a driver."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else (version.value // 1000, version.value % 1000 // 10)


def pin_nccl_algorithm() -> None:
    """Keep NCCL to algorithms that sum in one order, unless the user has chosen some.

    NVLink switches (NVLS) sum in hardware, in an order that is not promised to be the same twice.
    Must be called before the first collective operation.
    """
    os.environ.setdefault("NCCL_ALGO", "^NVLS,NVLSTree")


def _check_kernels(name: str, capability: Version) -> None:
    """Raise UserError where a GPU older than Blackwell has no kernels; warn where some lack."""
    built_for = _capabilities_of_build()
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


@functools.cache
def _refusal_of_trial(gpus: tuple[tuple[int, str], ...]) -> str:
    """Return why one of the GPUs, (number, name), fails a trial in a process of its own, or ""."""
    numbers = [str(number) for number, _ in gpus]
    failed_at, reason = _try_gpus(numbers)
    if not reason:
        return ""
    name = dict(gpus)[failed_at]
    return (
        f"this build of TensorFlow ({tf.__version__}) cannot use {name}: {reason}. {_WAY_OUT}; "
        "such a GPU needs driver 570 or later"
    )


def _marker_of_trial(device_name: str, capability: Version) -> Path | None:
    """Return the file that exists once such a GPU has passed its trial; None without a cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return None
    about = (
        *(tf.__version__, f"cuda{_dotted(driver_cuda_version() or ())}"),
        *(device_name, _dotted(capability)),
    )
    name = re.sub(r"[^\w.]+", "-", "-".join(("gpu-trial", *about)))
    return cache / "autoencoder-trainer" / name


def _exists(marker: Path | None) -> bool:
    with contextlib.suppress(OSError):
        return marker is not None and marker.exists()
    return False


def _mark_passed(markers: Iterable[Path | None]) -> None:
    """Create the files that spare later processes a trial, where the cache can be written."""
    for marker in filter(None, markers):
        with contextlib.suppress(OSError):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


def _try_gpus(numbers: list[str]) -> tuple[int, str]:
    """Return the number of the first GPU that fails, and why; "" where none does."""
    folder = str(Path(__file__).parents[2])  # where it is found from any working directory
    paths = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    try:
        trial = subprocess.run(
            [*_TRIAL, *numbers],
            env=os.environ | {"PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or ""  # in bytes, whatever `text` says
        passed = (said.decode() if isinstance(said, bytes) else said).split()
        reason = f"a trial did not end within {_TRIAL_SECONDS} seconds"
    except OSError as error:
        raise UserError(f"a GPU cannot be tried: {in_one_line(error)}") from error
    else:
        if trial.returncode == 0:
            return int(numbers[0]), ""
        passed = trial.stdout.split()
        lines = trial.stderr.strip().splitlines()
        reason = printable(lines[-1].strip()) if lines else f"a trial ended by {trial.returncode}"
    return int(next((n for n in numbers if n not in passed), numbers[-1])), reason


def _machine_has_gpu() -> bool:
    """Say whether the system shows an NVIDIA GPU: by its driver, by WSL 2, or by nvidia-smi."""
    with contextlib.suppress(OSError):
        if any(_DRIVER_OF_GPUS.iterdir()):
            return True
    if Path("/dev/dxg").exists() and _DRIVER_OF_WSL.exists():  # WSL 2 has dxg for any maker's
        return True
    if not shutil.which("nvidia-smi"):
        return False
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"],  # noqa: S607  # wherever the driver has put it
            capture_output=True,
            text=True,
            timeout=_LISTING_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and listed.stdout.startswith("GPU ")


def _capabilities_of_build() -> list[Version]:
    """Return the capabilities that this build of TensorFlow has binaries for, the lowest first."""
    targets = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])
    found = [re.fullmatch(r"sm_(\d+)(\d)a?", target) for target in targets]
    return sorted((int(match[1]), int(match[2])) for match in found if match)


def _cuda_of_build() -> Version | None:
    """Return the CUDA version that compiled this build, whose PTX a driver must understand."""
    return _version(tf.sysconfig.get_build_info().get("cuda_version", ""))


def _installed(package: str) -> str | None:
    """Return the version of a package that pip has installed, or None."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _version(text: str) -> Version | None:
    numbers = re.match(r"(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@functools.cache
def _warn(line: str) -> None:
    """Print a warning, once in a process."""
    print(f"warning: {line}", file=sys.stderr, flush=True)
