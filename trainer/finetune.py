"""python -m trainer.finetune --workdir=runs/contractive"""

from typing import Any

from absl import flags

from trainer import cli
from trainer.config import defaults_of, keys
from trainer.evaluation.finetuning_options import FineTuning

_DEFINE: dict[type, Any] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
}
_WORKDIR = cli.workdir_flag()
_CHECKPOINT = cli.checkpoint_flag()
_DATA = cli.data_flag()
_DEFAULTS = defaults_of(FineTuning)
_SETTINGS = {
    name: _DEFINE[kind](name, _DEFAULTS[name], declared.description())
    for name, (kind, declared) in keys(FineTuning).items()
}
flags.adopt_module_key_flags(cli)


def check() -> None:
    """Raises UserError for wrong flags that need no data to be found wrong."""
    _settings().check()
    cli.check_run()


def main() -> None:
    """Runs the command."""
    from trainer.evaluation.finetuning import finetune, print_table

    metrics = finetune(_WORKDIR.value, _settings(), _CHECKPOINT.value, _DATA.value)
    print_table(metrics, _WORKDIR.value)


def _settings() -> FineTuning:
    """Returns the settings of the flags; a refit has no patience unless the flag asks for one."""
    settings = {name: flag.value for name, flag in _SETTINGS.items()}
    if settings["refit"] and not flags.FLAGS["patience_epochs"].present:
        settings["patience_epochs"] = 0
    return FineTuning(**settings)


if __name__ == "__main__":
    cli.run(main, check)
