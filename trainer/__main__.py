"""python -m trainer --config=conv --workdir=runs/conv

Trains a run, or resumes the run in --workdir, which needs no --config. --config=conv --help
lists the keys of a config. Other commands, as python -m trainer.evaluate:
  evaluate finetune compare    measure a run
  encode decode denoise map sample export    use it
  prepare checkpoints    look at data, and at checkpoints
"""

import dataclasses
import time

from absl import flags

from trainer import cli
from trainer.config import Config, located, parse
from trainer.errors import require

_BEGAN_SECONDS = time.monotonic()  # before the import of TensorFlow, which takes seconds

_WORKDIR = cli.workdir_flag()
_CONFIG = cli.config_flag(
    "--config.key=value overrides one of its keys. Default: the config of the run in --workdir."
)
_DATA = cli.data_flag()
_SUMMARY = flags.DEFINE_bool("summary", False, "Print the networks and the plan, and stop.")
flags.adopt_module_key_flags(cli)


def _config() -> Config:
    """Returns the config of the flags, or of the run in the workdir."""
    from trainer.run.workdir import CONFIG, config_of
    from trainer.storage.paths import path_of

    if _CONFIG.value is None:
        path = path_of(_WORKDIR.value)
        require((path / CONFIG).exists(), f"--config=... is missing: {path} holds no run to resume")
        return config_of(path, _DATA.value)
    config = parse(_CONFIG.value)
    return dataclasses.replace(config, data=located(config.data, "", _DATA.value))


def main() -> None:
    """Runs the command."""
    from trainer.training.train import describe, train

    if _SUMMARY.value:
        describe(_config(), _WORKDIR.value)
    else:
        train(_config(), _WORKDIR.value, began_seconds=_BEGAN_SECONDS)


if __name__ == "__main__":
    cli.run(main, lambda: cli.check_config(_config()))
