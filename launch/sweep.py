"""A run for each combination of some values of the config, compared in the end.

    python -m launch.sweep --grid=config.model.code_size=2,8,32 -- --config=... --workdir=runs/sweep

Each run has a folder of its own in the workdir, named by its values. The same command goes on where
it was stopped: a run that is finished says so, one that is measured is not measured again.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from absl import flags

from launch import arguments, grids
from launch.jobs import Job, work_off
from launch.processes import received_signals, say, shares, visible_gpus
from trainer.errors import Preempted, UserError, require
from trainer.evaluation import compare
from trainer.run import workdir
from trainer.storage import paths

_MODULE = (sys.executable, "-m")

_GRID = flags.DEFINE_multi_string(
    "grid", [], "config.KEY=VALUE,VALUE,...; several grids make each combination of their values."
)
_PARALLEL = flags.DEFINE_integer("parallel", 1, "Runs at a time, each on its share of the GPUs.", 1)
_MAX_RESTARTS = flags.DEFINE_integer("max_restarts", 1, "Of each run, after crashes.", 0)


def main(trainer_flags: list[str]) -> int:
    """Trains, evaluates and compares the runs.

    Returns 0 where all finish, 75 where a signal stops them, 2 where one is refused, else the
    status of the first that did not finish.

    Raises:
      UserError: the grid is not allowed, or the GPUs cannot be shared out.
    """
    require(bool(_GRID.value), "--grid=config.KEY=VALUE,VALUE,... is missing")
    grid = grids.read(_GRID.value)
    for key in grid:
        given = arguments.flag_value(trainer_flags, key)
        require(given is None, f"{key} is in --grid, and {given} after --; allowed: one of them")
    settings = grids.product(grid)
    on_cpu = (arguments.flag_value(trainer_flags, "config.strategy") or "").startswith("cpu:")
    environments = shares([] if on_cpu else visible_gpus(), _PARALLEL.value, "parallel")

    folder = paths.path_of(arguments.flag_value(trainer_flags, "workdir") or "")
    runs = {name: folder / name for name in settings}
    jobs = [Job(name, _commands(trainer_flags, runs[name], settings[name])) for name in runs]
    with received_signals() as received:
        statuses = work_off(jobs, environments, _MAX_RESTARTS.value, received)
        finished = [runs[name] for name in runs if statuses.get(name) == 0]
        if finished and not received:
            print(compare.compare(finished, str(folder), overwrite=True), flush=True)
    if received:
        say("stopped; the same command goes on from here")
        return Preempted.exit_status
    failed = {name: status for name, status in statuses.items() if status}
    if failed:
        ended = "; ".join(f"{name} with status {status}" for name, status in failed.items())
        say(f"{len(failed)} of {len(runs)} runs did not finish: {ended}")
    return _of_all(failed)


def _commands(
    trainer_flags: Sequence[str], folder: Path, settings: Mapping[str, str]
) -> Iterator[list[str]]:
    own_flags = [f"--workdir={folder}", *(f"--{key}={value}" for key, value in settings.items())]
    yield [*_MODULE, "trainer", *trainer_flags, *own_flags]  # the last --workdir counts
    if not _is_measured(folder):
        yield [*_MODULE, "trainer.evaluate", f"--workdir={folder}"]


def _is_measured(folder: Path) -> bool:
    """Not where its files cannot be read: who reads them next says so, and other jobs go on."""
    try:
        return workdir.is_measured(folder)
    except UserError:
        return False


def _of_all(failed: Mapping[str, int]) -> int:
    """What a sweep ends with: 2 before a crash, a crash before a preemption of one run."""
    if UserError.exit_status in failed.values():
        return UserError.exit_status
    crashed = [status for status in failed.values() if status != Preempted.exit_status]
    return next(iter([*crashed, *failed.values()]), 0)


if __name__ == "__main__":
    arguments.run(main)
