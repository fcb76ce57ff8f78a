"""python -m trainer --config=configs/conv.py --workdir=runs/conv"""

import time

from absl import flags

from trainer import cli

_BEGAN_SECONDS = time.monotonic()  # before the import of TensorFlow, which takes seconds

_WORKDIR = cli.workdir_flag()
_CONFIG = cli.config_flag("--config.key=value overrides one of its keys.")
flags.mark_flag_as_required("config")
flags.adopt_module_key_flags(cli)


def main() -> None:
    """Runs the command."""
    from trainer.train import train

    train(_CONFIG.value, _WORKDIR.value, began_seconds=_BEGAN_SECONDS)


if __name__ == "__main__":
    cli.run(main, lambda: cli.check_config(_CONFIG.value))
