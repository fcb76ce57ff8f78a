"""python -m trainer.checkpoints verify RUN ...

Exits with 0 if all checkpoints of the runs are whole, with 1 if one is damaged or another run's.
"""

import sys

from trainer import cli
from trainer.errors import require
from trainer.run import workdir
from trainer.storage import paths


def main(names: list[str]) -> None:
    """Runs the command."""
    verb, runs = names[:1], names[1:]
    require(verb == ["verify"], f"verb {' '.join(verb)!r} is not known; allowed: verify")
    require(bool(runs), "RUN is missing; write python -m trainer.checkpoints verify RUN")
    damaged = 0
    for run in runs:
        lines, count = workdir.read(paths.path_of(run)).checkpoints.report()
        print(*lines, sep="\n")
        damaged += count
    sys.exit(damaged > 0)


if __name__ == "__main__":
    cli.run_on_names(main)
