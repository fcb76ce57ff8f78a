"""Shares this machine's GPUs out among the processes that a launcher starts."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launch import arguments
from launch.supervisor import say
from trainer.errors import require

_DEVICES = Path("/dev")  # a GPU that this process may use is here, as nvidia0


def environments(
    trainer_flags: list[str], flag: str, count: int, *, several_on_each: bool = False
) -> list[dict[str, str]]:
    """Returns the environments of `count` trainers, as `share` does with the visible GPUs.

    Raises:
      UserError: as `visible_gpus` and `share`.
    """
    on_cpu = (arguments.flag_value(trainer_flags, "config.strategy") or "").startswith("cpu:")
    gpus = [] if on_cpu else visible_gpus()
    return share(gpus, flag, count, several_on_each=several_on_each)


def visible_gpus() -> list[str]:
    """Returns the GPUs named in CUDA_VISIBLE_DEVICES or, if it is unset, the indices of all.

    Raises:
      UserError: the machine has NVIDIA GPUs, but nvidia-smi does not list them.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",")]
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))  # as CUDA does
    failure = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return result.stdout.split()
        failure = f"fails: {' '.join(result.stdout.split())}"
    require(
        not any(_DEVICES.glob("nvidia[0-9]*")),
        f"this machine has NVIDIA GPUs, but nvidia-smi {failure or 'is not on the PATH'}; "
        "CUDA_VISIBLE_DEVICES=0,1 names the GPUs to use, an empty one trains on CPUs",
    )
    if failure:
        say(f"nvidia-smi {failure}; the training uses CPUs")
    return []


def share(
    gpus: Sequence[str], flag: str, count: int, *, several_on_each: bool = False
) -> list[dict[str, str]]:
    """Shares GPUs evenly; returns an environment for each of `count` processes.

    With `several_on_each`, more processes than GPUs get one each, in turn.

    Raises:
      UserError: the GPUs cannot be shared evenly; the line names the `flag` that gave the count.
    """
    if several_on_each and 0 < len(gpus) < count:
        return [{"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} for index in range(count)]
    require(
        len(gpus) % count == 0,
        f"{flag}={count} cannot share {len(gpus)} GPUs evenly; allowed: a divisor of {len(gpus)}"
        f"{', more than that' if several_on_each else ''}, or fewer GPUs by CUDA_VISIBLE_DEVICES",
    )
    size = len(gpus) // count
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * size : (index + 1) * size])}
        for index in range(count)
    ]
