"""python -m trainer.compare runs/*"""

import sys

from absl import flags

from trainer import cli

_OUTPUT = flags.DEFINE_string(
    "output", "", "Folder for compare.md and compare.png. Default: the folder of the runs."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace files that are not an earlier comparison, too."
)
_EVALUATE = flags.DEFINE_bool(
    "evaluate", False, "First run trainer.evaluate on the runs that are not evaluated."
)


def main(names: list[str]) -> None:
    """Runs the command."""
    from trainer.evaluation import compare
    from trainer.run import workdir

    runs, others = compare.find(names)
    if others:
        print(f"left out, no runs: {', '.join(map(str, others))}")
    # Checks the output before hours of evaluation.
    compare.output_folder(runs, _OUTPUT.value, overwrite=_OVERWRITE.value)
    status = compare.evaluate(runs) if _EVALUATE.value else 0
    if status and all(workdir.read_metrics(run) is None for run in runs):
        sys.exit(status)  # the evaluations have printed why
    print(compare.compare(runs, _OUTPUT.value, overwrite=_OVERWRITE.value))
    sys.exit(status)


if __name__ == "__main__":
    cli.run_on_names(main)
