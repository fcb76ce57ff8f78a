"""What a config has to hold: every key, with a value of its kind, before anything is begun."""

from collections.abc import Iterable, Mapping

from ml_collections import ConfigDict

from trainer import data
from trainer.errors import require, require_kind

_RUN_KEYS = {
    **dict.fromkeys(("seed", "batch_size", "steps_per_call", "keep_checkpoints"), int),
    **dict.fromkeys(("log_every_steps", "validate_every_steps", "checkpoint_every_steps"), int),
    **dict.fromkeys(("num_epochs", "startup_timeout_seconds"), float),
    **dict.fromkeys(("strategy", "precision", "execution", "profile"), str),
    **dict.fromkeys(("deterministic", "histograms", "pictures", "quiet"), bool),
    **dict.fromkeys(("model", "data", "optimizer", "spikes"), ConfigDict),
}
_OPTIMIZER_KEYS = {
    **dict.fromkeys(("name", "schedule"), str),
    **dict.fromkeys(("learning_rate", "clip_norm", "weight_decay"), float),
    "warmup_steps": int,
}
_SPIKES_KEYS = {"loss_ratio": float, "skip_steps": int, "max_rollbacks": int}
_DATA_KEYS = {key: type(value) for key, value in vars(data.settings("")).items()}


def check(config: ConfigDict) -> None:
    """Checks all but the settings of the kind, which `models.create` knows, and the ranges.

    Raises:
      UserError: a key is missing or not known, or has a value of another kind.
    """
    _check("", config, _RUN_KEYS)
    _check("data.", config.data, _DATA_KEYS)
    _check("optimizer.", config.optimizer, _OPTIMIZER_KEYS)
    _check("spikes.", config.spikes, _SPIKES_KEYS)


def check_data(config: ConfigDict) -> None:
    """Checks the settings of the data alone, as a run of an older version may have them.

    Raises:
      UserError: one that `data.load` has no default for is missing, one is not known, or has a
        value of another kind.
    """
    _check("data.", config, _DATA_KEYS, ["name"])


def _check(
    group: str,
    config: ConfigDict,
    kinds: Mapping[str, type],
    needed: Iterable[str] | None = None,
) -> None:
    for key in kinds if needed is None else needed:
        require(key in config, f"the config has no {group}{key}; configs/base.py lists all keys")
    for key, value in config.items():
        require(
            key in kinds, f"the config has a key {group}{key}, of which configs/base.py knows none"
        )
        require_kind(f"{group}{key}", value, kinds[key])
