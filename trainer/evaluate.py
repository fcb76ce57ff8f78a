"""python -m trainer.evaluate --workdir=runs/conv"""

from absl import flags

from trainer import cli

_WORKDIR = cli.workdir_flag()
_CHECKPOINT = cli.checkpoint_flag()
_DATA = cli.data_flag()
flags.adopt_module_key_flags(cli)


def main() -> None:
    """Runs the command."""
    from trainer.evaluation.evaluate import evaluate, print_table

    print_table(evaluate(_WORKDIR.value, _CHECKPOINT.value, _DATA.value), _WORKDIR.value)


if __name__ == "__main__":
    cli.run(main, cli.check_run)
