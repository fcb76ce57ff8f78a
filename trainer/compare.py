"""python -m trainer.compare runs/*"""

import sys

from absl import flags

from trainer import cli

_OUTPUT = flags.DEFINE_string(
    "output", "", "The folder for compare.md and compare.png; that of the runs if not given."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replaces a comparison that is there.")
_EVALUATE = flags.DEFINE_bool(
    "evaluate", False, "Evaluates the runs first that have not been, as trainer.evaluate does."
)


def main(names: list[str]) -> None:
    """Runs the command."""
    from trainer.evaluation import compare
    from trainer.run import workdir

    runs, others = compare.find(names)
    if others:
        print(f"left out, no runs: {', '.join(map(str, others))}")
    compare.output_folder(
        runs, _OUTPUT.value, overwrite=_OVERWRITE.value
    )  # before hours of evaluation
    status = compare.evaluate(runs) if _EVALUATE.value else 0
    if status and all(workdir.read_metrics(run) is None for run in runs):
        sys.exit(status)  # why has been said
    print(compare.compare(runs, _OUTPUT.value, overwrite=_OVERWRITE.value))
    sys.exit(status)


if __name__ == "__main__":
    cli.run_on_names(main)
