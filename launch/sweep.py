"""Trains and evaluates a run for each combination of config values, then compares the runs.

    python -m launch.sweep --grid=config.model.code_size=2,8,32 -- --config=... --workdir=runs/sweep

Each run has its own folder in the workdir, named by its values. The same command resumes a sweep
that was stopped, without training or evaluating finished runs again.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from absl import flags

from launch import arguments, forks, gpus, grids
from launch.supervisor import Command, Job, received_signals, say, start_process, supervise
from trainer.errors import Preempted, UserError, require
from trainer.run.metrics_log import is_measured
from trainer.storage import paths

_MODULE = (sys.executable, "-m")

_GRID = flags.DEFINE_multi_string(
    "grid",
    [],
    "Values to try for a key of the config, config.KEY=VALUE,VALUE,... Several keys make a run for "
    "each combination of their values",
)
_PARALLEL = flags.DEFINE_integer(
    "parallel",
    1,
    "Number of runs that train at a time: each on an equal share of the GPUs, or several on each.",
    lower_bound=1,
)
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts", 1, "How often a run is restarted after crashes.", lower_bound=0
)


def main(trainer_flags: list[str]) -> int:
    """Trains, evaluates and compares the runs.

    Returns 0 if all runs finish, 75 if a signal stops them, 2 if one is refused, otherwise the
    status of the first run that did not finish.

    Raises:
      UserError: the grid is not allowed, or the GPUs cannot be shared evenly.
    """
    require(bool(_GRID.value), "--grid=config.KEY=VALUE,VALUE,... is missing")
    grid = grids.read(_GRID.value)
    for key in grid:
        given = arguments.flag_value(trainer_flags, key)
        require(given is None, f"{key} is in --grid, and {given} after --; give it once")
    settings = grids.combinations(grid)
    environments = gpus.environments(
        trainer_flags, "parallel", _PARALLEL.value, several_on_each=True
    )

    folder = paths.path_of(arguments.flag_value(trainer_flags, "workdir") or "")
    runs = {name: folder / name for name in settings}
    jobs = [Job(name, _stages(trainer_flags, runs[name], settings[name])) for name in runs]
    with received_signals() as received, forks.ForkServer() as server:
        # CUDA is not known to survive a fork of a process that has loaded its libraries.
        on_gpus = any(environment["CUDA_VISIBLE_DEVICES"] for environment in environments)
        start = start_process if on_gpus else server.start
        statuses = supervise(jobs, environments, _MAX_RESTARTS.value, received, start)
        finished = [runs[name] for name in runs if statuses.get(name) == 0]
        if finished and not received:
            # Here, since NumPy starts threads, and all runs have ended: see launch/supervisor.py.
            from trainer.evaluation import compare

            print(compare.compare(finished, str(folder), overwrite=True), flush=True)
    if received:
        say("stopped; start the same command again to resume")
        return Preempted.exit_status
    failed = {name: status for name, status in statuses.items() if status}
    if failed:
        ended = "; ".join(f"{name} with status {status}" for name, status in failed.items())
        say(f"{len(failed)} of {len(runs)} runs did not finish: {ended}")
    return _sweep_status(failed)


def _stages(
    trainer_flags: Sequence[str], run: Path, settings: Mapping[str, str]
) -> Iterator[Callable[[Mapping[str, str]], list[Command]]]:
    """Yields the training of a run and, unless its newest step is evaluated, the evaluation."""

    def stage(*argv: str) -> Callable[[Mapping[str, str]], list[Command]]:
        return lambda environment: [Command(run.name, [*_MODULE, *argv], environment)]

    own_flags = [f"--workdir={run}", *(f"--{key}={value}" for key, value in settings.items())]
    yield stage("trainer", *trainer_flags, *own_flags)  # the last --workdir counts
    if not _is_measured(run):
        yield stage("trainer.evaluate", f"--workdir={run}")


def _is_measured(run: Path) -> bool:
    try:
        return is_measured(run)
    except UserError:  # trainer.evaluate reports the damage, and the other jobs go on
        return False


def _sweep_status(failed: Mapping[str, int]) -> int:
    """Returns 2 if any run was refused, else the status of the first crash, else 75 or 0."""
    if UserError.exit_status in failed.values():
        return UserError.exit_status
    crashed = [status for status in failed.values() if status != Preempted.exit_status]
    return next(iter([*crashed, *failed.values()]), 0)


if __name__ == "__main__":
    arguments.run(main)
