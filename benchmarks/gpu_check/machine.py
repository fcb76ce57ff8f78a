"""Describes the machine: cards, driver, CUDA, builds, and wheels that share library files."""

import csv
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu_check.report import Section

_QUERY = ("name", "memory.total", "driver_version", "power.limit", "clocks.max.sm", "compute_mode")
_PACKAGES = ("tensorflow", "keras", "numpy")
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "XLA_FLAGS", "TF_XLA_FLAGS", "NCCL_ALGO")
UNKNOWN: dict[str, Any] = {  # the result if `describe` fails
    "gpus": [],
    "build": {},
    "precisions": [],
    "refusal": "",
    "hidden": False,
    "driver_cuda": "unknown",
}


def describe() -> dict[str, Any]:
    """Returns TensorFlow's GPUs and build and the trainer's precisions; runs in a child process.

    GPUs that need a trial before use are tried here, so that later trainings need not.
    """
    import tensorflow as tf

    from trainer.distribution import gpus as usable
    from trainer.distribution.strategy import PRECISIONS
    from trainer.errors import UserError

    refusal = ""
    try:
        usable.check_gpus()
    except UserError as error:
        refusal = str(error)
    driver = usable.driver_cuda_version()
    gpus = [
        tf.config.experimental.get_device_details(gpu)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    build = tf.sysconfig.get_build_info()
    return {
        "gpus": [
            {"name": gpu.get("device_name", "unknown"), "capability": gpu.get("compute_capability")}
            for gpu in gpus
        ],
        "build": {name: build[name] for name in sorted(build) if name.startswith(("cu", "is_cu"))},
        "precisions": PRECISIONS,
        "refusal": refusal,
        "hidden": usable.all_hidden(),
        "driver_cuda": ".".join(map(str, driver)) if driver else "none",
    }


def nvidia_smi() -> list[dict[str, str]]:
    """Returns what nvidia-smi reports of each card; none where it is missing, hangs or fails."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:  # TensorFlow may still find the cards
        print(f"nvidia-smi failed: {error}", file=sys.stderr)
        return []
    rows = csv.reader(answer.stdout.splitlines(), skipinitialspace=True)
    return [dict(zip(_QUERY, row, strict=True)) for row in rows if len(row) == len(_QUERY)]


def shared_libraries(
    distributions: Iterable[importlib.metadata.Distribution],
) -> dict[str, list[str]]:
    """Returns each library under `nvidia/` that several distributions install, with their names.

    CUDA 12 and CUDA 13 wheels share paths: the one installed last overwrites the other's files.
    """
    owners: dict[str, set[str]] = {}
    for distribution in distributions:
        for file in distribution.files or ():
            if file.parts[0] == "nvidia" and ".so" in file.name:
                owners.setdefault(file.as_posix(), set()).add(distribution.metadata["Name"])
    return {path: sorted(names) for path, names in sorted(owners.items()) if len(names) > 1}


def fill(section: Section, found: Mapping[str, Any], cards: list[dict[str, str]]) -> None:
    """Describes the machine; adds a failure if a card cannot be used or wheels are in conflict."""
    rows = [(f"GPU {number}", _gpu_words(gpu)) for number, gpu in enumerate(found["gpus"])]
    rows += [(f"nvidia-smi {n}", ", ".join(card.values())) for n, card in enumerate(cards)]
    rows.append(("CUDA of the driver", found["driver_cuda"]))
    build = ", ".join(f"{name} {_words(value)}" for name, value in found["build"].items())
    rows.append(("TensorFlow's build", build or "unknown"))
    installed = list(importlib.metadata.distributions())
    versions = sorted((str(one.metadata["Name"]), one.version) for one in installed)
    rows += [row for row in versions if row[0].startswith("nvidia-") or row[0] in _PACKAGES]
    rows.append(("Python", platform.python_version()))
    rows.append(("system", f"{platform.system()} {platform.release()}, {platform.machine()}"))
    memory = psutil.virtual_memory().total / 2**30
    rows.append(("CPU", f"{_cpu_name()}, {os.cpu_count()} logical cores, {memory:.0f} GiB"))
    rows += [(name, os.environ[name]) for name in _VARIABLES if name in os.environ]
    section.table(("", ""), rows)
    section.require(
        not cards or bool(found["gpus"]) or found["hidden"],
        f"nvidia-smi shows {len(cards)} cards, TensorFlow none: is .[cuda] installed?",
    )
    section.require(not found["refusal"], found["refusal"])
    for path, names in shared_libraries(installed).items():
        section.failures.append(f"{path} is installed by {' and by '.join(names)}")


def _gpu_words(gpu: Mapping[str, Any]) -> str:
    capability = tuple(gpu["capability"] or ())
    tf32 = "TF32" if capability >= (8, 0) else "no TF32"
    shown = ".".join(map(str, capability)) or "unknown"
    return f"{gpu['name']}, compute capability {shown}, {tf32}"


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
