"""A training on Slurm's nodes, one trainer on each: writes the script for sbatch, and submits it.

    python -m launch.slurm --nodes=2 --gpus_per_node=8 --submit -- --config=... --workdir=...

The script starts the trainers, and starts them again after a crash; after a preemption it has Slurm
put the job back into the queue. The launcher itself is done once the job is submitted.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from launch import arguments
from trainer.errors import UserError, require

_NODES = flags.DEFINE_integer("nodes", 1, "Nodes, one trainer on each.", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus_per_node", 0, "GPUs of each node.", lower_bound=0)
_CPUS = flags.DEFINE_integer(
    "cpus_per_task", 0, "CPUs of each trainer; 0: the cluster's default, often one.", lower_bound=0
)
_MEMORY = flags.DEFINE_integer(
    "memory_gib", 0, "Memory of each node; 0: the cluster's default.", lower_bound=0
)
_TIME = flags.DEFINE_string(
    "time", None, "Limit of the job, 1-12:00:00 or 90 (minutes); shortly before, it is requeued."
)
_PARTITION = flags.DEFINE_string("partition", None, "Where the job waits for nodes.")
_ACCOUNT = flags.DEFINE_string("account", None, "Who pays for it.")
_NAME = flags.DEFINE_string("name", None, "Of the job and its log; else the workdir's.")
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts", 3, "Restarts after crashes, between two preemptions.", lower_bound=0
)
_SBATCH = flags.DEFINE_multi_string(
    "sbatch", [], "A further option of sbatch, --sbatch=--exclusive; may be given several times."
)
_PYTHON = flags.DEFINE_string("python", sys.executable, "The interpreter, on every node.")
_OUTPUT = flags.DEFINE_string("output", None, "The file for the script; else it is printed.")
_SUBMIT = flags.DEFINE_bool("submit", False, "Submits the script, and prints the job's number.")

_NOTICE_SECONDS = 120  # before the time limit
_WORD = r"[\w.,+-]+"
_DURATION = r"\d+(:\d\d?){0,2}|\d+-\d\d?(:\d\d?){0,2}"

_LINT = "# shellcheck disable=SC2016,SC2329  # the tasks expand what is quoted, and call worker"

# Takes `folder`, `max_restarts`, `srun_options` and `trainer`, which `script` writes above it.
_BODY = r"""
# Each node has one trainer; the first node's is the chief. Exit statuses: 0 finished; 2 the user's
# mistake; 75 preempted, with a checkpoint; anything else a crash.
trap : TERM  # the trainers heed it; this shell only has to outlive them
cd "$folder" || exit 2

port=$((20000 + SLURM_JOB_ID % 10000))  # below those that Linux hands out by itself
WORKERS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&:$port\"/" | paste -sd,)
export WORKERS

worker() {
    unset TF_CONFIG
    if ((SLURM_JOB_NUM_NODES > 1)); then
        local task='{"type": "worker", "index": '$SLURM_PROCID'}'
        export TF_CONFIG='{"cluster": {"worker": ['$WORKERS']}, "task": '$task'}'
    fi
    exec "$@"
}
export -f worker

is_running() {  # not so once somebody cancels the job, or Slurm itself requeues it
    scontrol show job "$SLURM_JOB_ID" --oneliner | grep -q ' JobState=RUNNING '
}

for ((crashes = 0; ; crashes++)); do
    # Whoever is done leaves the others the time to write, but not to hang.
    srun --export=ALL --kill-on-bad-exit=0 --wait=300 "${srun_options[@]}" \
        bash -c 'worker "$@"' worker "${trainer[@]}"
    status=$?
    case $status in
    0 | 2) exit "$status" ;;
    75) break ;;
    esac
    if ((crashes >= max_restarts)) || ! is_running; then
        exit "$status"
    fi
    echo "the trainers crashed with status $status; restart $((crashes + 1)) of $max_restarts"
done

if is_running; then
    echo "preempted; back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit 75
"""


def main(trainer_flags: list[str]) -> int:
    """Writes the script, and submits or prints it; returns the exit status, sbatch's if it failed.

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
    """The script that sbatch takes, by the launcher's flags, for a trainer with these.

    Raises:
      UserError: a flag is not allowed.
    """
    _check()
    srun_options = []
    if _CPUS.value:
        srun_options.append(f"--cpus-per-task={_CPUS.value}")  # srun does not take it from sbatch
    if _NODES.value > 1:
        srun_options.append("--label")
    trainer = [_PYTHON.value, "-m", "trainer", *trainer_flags]
    settings = [
        f"folder={shlex.quote(str(Path.cwd()))}",
        f"max_restarts={_MAX_RESTARTS.value}",
        f"srun_options=({shlex.join(srun_options)})",
        f"trainer=({shlex.join(trainer)})",
    ]
    directives = [f"#SBATCH {option}" for option in _options(trainer_flags)]
    return "\n".join(["#!/bin/bash", *directives, "", _LINT, *settings, _BODY])


def _options(trainer_flags: list[str]) -> Iterator[str]:
    """What sbatch is asked for; the last of several that set the same thing counts."""
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
    yield "--open-mode=append"  # once requeued, it goes on in the same log
    yield from _SBATCH.value


def _check() -> None:
    """Raises UserError unless sbatch can read every flag as it is meant."""
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
    for option in _SBATCH.value:
        require(
            option.startswith("-") and option.isprintable(),
            f"--sbatch={option!r} is not allowed; it takes one option of sbatch, with its dashes",
        )
    require(bool(_PYTHON.value), "--python= is not allowed; it must name an interpreter")


def _submit(text: str) -> int:
    """Hands the script to sbatch, which prints the job's number or says what it refuses."""
    try:
        return subprocess.run(
            ["sbatch", "--parsable"], input=text, text=True, check=False
        ).returncode
    except FileNotFoundError as error:
        raise UserError("--submit: there is no sbatch here; run it where Slurm is") from error


if __name__ == "__main__":
    arguments.run(main)
