"""Shares this machine's GPUs out among the processes that a launcher starts."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence

from launch import arguments
from launch.supervisor import say
from trainer.errors import require


def environments(trainer_flags: list[str], flag: str, count: int) -> list[dict[str, str]]:
    """Returns the environments of `count` trainers, each with an equal number of GPUs.

    Raises:
      UserError: the GPUs cannot be shared evenly; the line names the `flag` that gave the count.
    """
    on_cpu = (arguments.flag_value(trainer_flags, "config.strategy") or "").startswith("cpu:")
    return share([] if on_cpu else visible_gpus(), flag, count)


def visible_gpus() -> list[str]:
    """Returns the GPUs named in CUDA_VISIBLE_DEVICES or, if it is unset, the indices of all."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",")]
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))  # as CUDA does
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    if result.returncode:
        say(f"nvidia-smi fails, so no GPU is used: {' '.join(result.stdout.split())}")
        return []
    return result.stdout.split()


def share(gpus: Sequence[str], flag: str, count: int) -> list[dict[str, str]]:
    """Shares GPUs evenly; returns an environment for each of `count` processes.

    Raises:
      UserError: the GPUs cannot be shared evenly.
    """
    require(
        len(gpus) % count == 0,
        f"{flag}={count} cannot share {len(gpus)} GPUs evenly; allowed: a divisor of {len(gpus)}, "
        "or fewer GPUs by CUDA_VISIBLE_DEVICES",
    )
    size = len(gpus) // count
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * size : (index + 1) * size])}
        for index in range(count)
    ]
