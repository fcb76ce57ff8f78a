"""Share this machine's GPUs out among the processes that a launcher starts."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence

from launch import arguments
from launch.supervisor import say
from trainer.errors import require


def environments(trainer_flags: list[str], flag: str, count: int) -> list[dict[str, str]]:
    """Return the environment of each of `count` trainers, which have equally many GPUs.

    Raises:
      UserError: the GPUs cannot be shared evenly; the line names the `flag` that gave the count.
    """
    on_cpu = (arguments.flag_value(trainer_flags, "config.strategy") or "").startswith("cpu:")
    return share([] if on_cpu else visible_gpus(), flag, count)


def visible_gpus() -> list[str]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES allows, as named there; if unset, all by number."""
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
    """Return `environments` for the given GPUs."""
    require(
        len(gpus) % count == 0,
        f"{flag}={count} cannot share {len(gpus)} GPUs evenly; allowed: what divides them, or "
        "fewer GPUs by CUDA_VISIBLE_DEVICES",
    )
    size = len(gpus) // count
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * size : (index + 1) * size])}
        for index in range(count)
    ]
