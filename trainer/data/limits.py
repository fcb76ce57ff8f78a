"""Reads how much memory and how many cores this process may use, as in a container."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
# By the controllers in a line of _GROUPS, "" in version 2: the folder of the groups below _ROOT,
# the files of limit and use, and the key of the file cache, which Linux frees when it needs memory.
_VERSIONS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        *("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        "total_inactive_file",
    ),
}


class MemoryLimit(NamedTuple):
    """Holds the memory that a control group (cgroup) may take, and how much of it is left."""

    total_bytes: int
    available_bytes: int


def memory_limits() -> Iterator[MemoryLimit]:
    """Yields the limits of the control groups of this process and of their parent groups."""
    with contextlib.suppress(OSError):
        for line in _GROUPS.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in _VERSIONS:
                subfolder, *names = _VERSIONS[controllers]
                own = _ROOT / subfolder / group.lstrip("/")
                for folder in (own, *own.parents):
                    if folder.is_relative_to(_ROOT):
                        yield from _limit(folder, *names)


def usable_cores() -> int:
    """Returns the number of cores in this process's CPU affinity; ignores CPU quotas."""
    if hasattr(os, "sched_getaffinity"):  # Linux, where batch systems bind processes
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limit(folder: Path, limit: str, use: str, cache: str) -> Iterator[MemoryLimit]:
    """Yields the limit of one group, unless there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError):  # an unlimited group says "max"
        total, used = (int((folder / name).read_text()) for name in (limit, use))
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = int(dict(line.split() for line in lines)[cache])
        yield MemoryLimit(total, max(0, total - used + cached))
