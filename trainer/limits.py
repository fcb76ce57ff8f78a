"""Reads how much memory and how many cores this process may use, as in a container."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
# By version: the names of the limit, of the use, and of the file cache in memory.stat, which Linux
# frees when it needs memory.
_MEMORY_NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


class MemoryLimit(NamedTuple):
    """Holds the memory that a control group (cgroup) may take, and how much of it is left."""

    total_bytes: int
    available_bytes: int


def memory_limits() -> Iterator[MemoryLimit]:
    """Yields the limits of the control groups of this process and of their parent groups."""
    for version, folder in _groups("memory"):
        limit, use, cache = _MEMORY_NAMES[version]
        with contextlib.suppress(OSError, ValueError, KeyError):  # an unlimited group says "max"
            total, used = (int((folder / name).read_text()) for name in (limit, use))
            lines = (folder / "memory.stat").read_text().splitlines()
            cached = int(dict(line.split() for line in lines)[cache])
            yield MemoryLimit(total, max(0, total - used + cached))


def usable_cores() -> int:
    """Returns how many cores this process may use, by its CPU affinity and its CPU quotas."""
    return min([_cores_of_affinity(), *_quotas()])


def limit_threads() -> None:
    """Gives TensorFlow as many threads as a CPU quota allows, unless the environment says how many.

    TensorFlow starts a thread for each core of the affinity; the kernel then stops all of them
    for most of each period, as with `docker run --cpus=2` on a machine with many cores.
    """
    cores = usable_cores()
    if cores < _cores_of_affinity():
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ.setdefault(name, str(cores))


def _cores_of_affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux, where batch systems bind processes
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas() -> Iterator[int]:
    """Yields the cores, rounded up, that each control group with a CPU quota may use."""
    for version, folder in _groups("cpu"):
        with contextlib.suppress(OSError, ValueError):  # an unlimited group says "max"
            if version == 1:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                quota, period = (int((folder / name).read_text()) for name in names)
            else:
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            if quota > 0:  # -1: unlimited
                yield math.ceil(quota / period)


def _groups(controller: str) -> Iterator[tuple[int, Path]]:
    """Yields the version and folder of each control group of this process and of its parents."""
    with contextlib.suppress(OSError):
        for line in _GROUPS.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                own = (_ROOT / controller if controllers else _ROOT) / group.lstrip("/")
                folders = (own, *own.parents)
                version = 1 if controllers else 2
                yield from ((version, folder) for folder in folders if folder.is_relative_to(_ROOT))
