"""Trains on Slurm, with one trainer on each node: writes the script for sbatch and submits it.

    python -m launch.slurm --nodes=2 --gpus_per_node=8 --submit -- --config=... --workdir=...

The script starts the trainers, restarts them after a crash and has Slurm requeue the job after a
preemption. The launcher itself exits as soon as the job is submitted.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from absl import flags

from launch import arguments
from trainer.errors import UserError, require

_NODES = flags.DEFINE_integer("nodes", 1, "Number of nodes; each runs one trainer.", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus_per_node", 0, "GPUs to request on each node.", lower_bound=0)
_CPUS = flags.DEFINE_integer(
    "cpus_per_task",
    0,
    "CPUs to request for each trainer; 0: the cluster's default, often one.",
    lower_bound=0,
)
_MEMORY = flags.DEFINE_integer(
    "memory_gib",
    0,
    "GiB of memory to request on each node; 0: the cluster's default.",
    lower_bound=0,
)
_TIME = flags.DEFINE_string(
    "time",
    None,
    "Time limit of the job: 90 (minutes) or 1-12:00:00. It is requeued shortly before the limit.",
)
_PARTITION = flags.DEFINE_string("partition", None, "Slurm partition to submit the job to.")
_ACCOUNT = flags.DEFINE_string("account", None, "Slurm account to charge.")
_NAME = flags.DEFINE_string(
    "name", None, "Name of the job and of its log. Default: the workdir's name."
)
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts", 3, "Restarts after crashes, between two preemptions.", lower_bound=0
)
_SBATCH = flags.DEFINE_multi_string(
    "sbatch", [], "Another option of sbatch, such as --sbatch=--exclusive"
)
_PYTHON = flags.DEFINE_string("python", sys.executable, "Python interpreter to use on every node.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write the script to. Default: stdout.")
_SUBMIT = flags.DEFINE_bool("submit", False, "Submit the script, and print the job's number.")

_NOTICE_SECONDS = 120  # before the time limit
_MIN_SECONDS = 300  # of a time limit: a shorter job would stop before it has trained
_WORD = r"[\w.,+-]+"
_DURATION = r"\d+(:\d\d?){0,2}|\d+-\d\d?(:\d\d?){0,2}"
_SHELLCHECK = "# shellcheck disable=SC2016,SC2329  # $... is expanded, and worker called, by tasks"


def main(trainer_flags: list[str]) -> int:
    """Writes the script, and submits or prints it; returns 0, or sbatch's status if it failed.

    Raises:
      UserError: a flag is not allowed, the file cannot be written or sbatch is missing.
    """
    text = script(trainer_flags)
    if _OUTPUT.value:
        try:
            Path(_OUTPUT.value).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"--output={_OUTPUT.value} cannot be written: {error.strerror}"
            ) from error
    if _SUBMIT.value:
        return _submit(text)
    if not _OUTPUT.value:
        print(text, end="")
    return 0


def script(trainer_flags: list[str]) -> str:
    """Returns the batch script: options of sbatch, variables, and templates/slurm.sh.

    Raises:
      UserError: a flag is not allowed.
    """
    _check_flags()
    srun_options = []
    if _CPUS.value:
        # Repeated here, since srun does not inherit this option from sbatch.
        srun_options.append(f"--cpus-per-task={_CPUS.value}")
    if _NODES.value > 1:
        srun_options.append("--label")
    trainer = [_PYTHON.value, "-m", "trainer", *trainer_flags]
    variables = [
        f"folder={shlex.quote(str(Path.cwd()))}",
        f"max_restarts={_MAX_RESTARTS.value}",
        f"srun_options=({shlex.join(srun_options)})",
        f"trainer=({shlex.join(trainer)})",
    ]
    directives = [f"#SBATCH {option}" for option in _sbatch_options(trainer_flags)]
    body = resources.files("launch").joinpath("templates/slurm.sh").read_text(encoding="utf-8")
    return "\n".join(["#!/bin/bash", *directives, "", _SHELLCHECK, *variables, "", body])


def _sbatch_options(trainer_flags: list[str]) -> Iterator[str]:
    """Yields the options of sbatch, which takes the last of several that set the same thing."""
    folder = Path(arguments.flag_value(trainer_flags, "workdir") or "").absolute()
    yield "--job-name=" + (_NAME.value or re.sub(r"[^\w.,+-]", "_", folder.name))
    yield f"--nodes={_NODES.value}"
    yield "--ntasks-per-node=1"
    for option, value in (
        ("gpus-per-node", _GPUS.value),
        ("cpus-per-task", _CPUS.value),
        ("mem", f"{_MEMORY.value}G" if _MEMORY.value else None),
        ("time", _TIME.value),
        ("partition", _PARTITION.value),
        ("account", _ACCOUNT.value),
    ):
        if value:
            yield f"--{option}={value}"
    yield f"--signal=TERM@{_NOTICE_SECONDS}"  # without B: to the trainers, once, not to the shell
    yield "--requeue"
    yield "--output=%x-%j.log"
    yield "--open-mode=append"  # a requeued job continues its log
    yield from _SBATCH.value


def _check_flags() -> None:
    """Raises UserError if sbatch could misread a flag."""
    for name, value in (
        ("partition", _PARTITION.value),
        ("account", _ACCOUNT.value),
        ("name", _NAME.value),
    ):
        require(
            value is None or re.fullmatch(_WORD, value) is not None,
            f"--{name}={value!r} is not allowed; it takes letters, digits and any of _.,+-",
        )
    require(
        _TIME.value is None or re.fullmatch(_DURATION, _TIME.value) is not None,
        f"--time={_TIME.value!r} is not allowed; it takes minutes, hours:minutes:seconds or "
        "days-hours:minutes:seconds",
    )
    require(
        not _TIME.value or not 0 < _seconds(_TIME.value) < _MIN_SECONDS,
        f"--time={_TIME.value!r} is not allowed; it must be at least {_MIN_SECONDS // 60} minutes, "
        f"since the job is stopped and requeued {_NOTICE_SECONDS} seconds before the limit",
    )
    for option in _SBATCH.value:
        require(
            option.startswith("-") and option.isprintable(),
            f"--sbatch={option!r} is not allowed; it takes one option of sbatch, with its dashes",
        )
        require(
            not re.match(r"-a|--array\b", option),
            f"--sbatch={option!r} is not allowed: its jobs would share one workdir; submit a job "
            "with its own --workdir for each run",
        )
    require(bool(_PYTHON.value), "--python= is not allowed; it must name an interpreter")


def _seconds(duration: str) -> int:
    """Returns the seconds of a time limit; Slurm takes 0 for no limit."""
    days, _, rest = duration.rpartition("-")
    numbers = [int(number) for number in rest.split(":")]
    if days or len(numbers) == 3:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, minutes, seconds = (0, *numbers, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _submit(text: str) -> int:
    """Pipes the script to sbatch, which prints the job's number or why it refuses the job."""
    try:
        return subprocess.run(
            ["sbatch", "--parsable"], input=text, text=True, check=False
        ).returncode
    except FileNotFoundError as error:
        raise UserError("--submit: there is no sbatch here; run it where Slurm is") from error


if __name__ == "__main__":
    arguments.run(main)
