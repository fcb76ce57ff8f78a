"""python -m trainer --config=configs/conv.py --workdir=runs/conv"""

import time
from pathlib import Path

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from trainer import cli, config_names

_BEGAN_SECONDS = time.monotonic()  # before TensorFlow is imported, which takes its time

_WORKDIR = cli.workdir_flag()
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The config file, or the name of one that comes with the trainer; --config.key=value overrides "
    "one of its keys.",
)
flags.mark_flag_as_required("config")
flags.adopt_module_key_flags(cli)


class _ConfigParser(ConfigFileFlagParser):
    """Takes `conv` for the file of that name wherever the configs are installed."""

    def parse(self, path):
        named = path.isidentifier() and not Path(path).exists()
        return super().parse(str(config_names.path(path)) if named else path)


flags.FLAGS["config"].parser = _ConfigParser("config")


def main() -> None:
    from trainer.train import train

    train(_CONFIG.value, _WORKDIR.value, began_seconds=_BEGAN_SECONDS)


if __name__ == "__main__":
    cli.run(main)
