"""python -m trainer.checkpoints verify RUN ...

Ends with 0 where every checkpoint of the runs is whole, with 1 where one is damaged.
"""

import sys
from pathlib import Path

from trainer import checkpoints, cli, workdir
from trainer.errors import require


def main(names: list[str]) -> None:
    verb, runs = names[:1], names[1:]
    require(verb == ["verify"], f"verb {' '.join(verb)!r} is not known; allowed: verify")
    require(bool(runs), "RUN is missing; write python -m trainer.checkpoints verify RUN")
    damaged = 0
    for run in runs:
        lines, count = checkpoints.report(Path(run) / workdir.CHECKPOINTS)
        print(*lines, sep="\n")
        damaged += count
    sys.exit(damaged > 0)


if __name__ == "__main__":
    cli.run_on_names(main)
