"""What a config has to hold: every key, with a value of its kind, before anything is begun."""

import inspect
from collections.abc import Mapping

from ml_collections import ConfigDict

from trainer import data
from trainer.errors import require, require_kind

_RUN = {
    **dict.fromkeys(("seed", "batch_size", "steps_per_call", "keep_checkpoints"), int),
    **dict.fromkeys(("log_every_steps", "validate_every_steps", "checkpoint_every_steps"), int),
    **dict.fromkeys(("num_epochs", "startup_timeout_seconds"), float),
    **dict.fromkeys(("strategy", "precision", "execution", "profile"), str),
    **dict.fromkeys(("deterministic", "histograms", "pictures", "quiet"), bool),
    **dict.fromkeys(("model", "data", "optimizer", "spikes"), ConfigDict),
}
_OPTIMIZER = {
    **dict.fromkeys(("name", "schedule"), str),
    **dict.fromkeys(("learning_rate", "clip_norm", "weight_decay"), float),
    "warmup_steps": int,
}
_SPIKES = {"loss_ratio": float, "skip_steps": int, "max_rollbacks": int}
_NOT_IN_CONFIG = ("folder", "vectors")  # that data.load takes besides
_DATA = {
    parameter.name: parameter.annotation
    for parameter in inspect.signature(data.load).parameters.values()
    if parameter.name not in _NOT_IN_CONFIG
}


def check(config: ConfigDict) -> None:
    """Checks all but the settings of the kind, which `models.create` knows, and the ranges.

    Raises:
      UserError: a key is missing or not known, or has a value of another kind.
    """
    _check("", config, _RUN)
    _check("data.", config.data, _DATA)
    _check("optimizer.", config.optimizer, _OPTIMIZER)
    _check("spikes.", config.spikes, _SPIKES)


def _check(group: str, config: ConfigDict, kinds: Mapping[str, type]) -> None:
    for key in kinds:
        require(key in config, f"the config has no {group}{key}; configs/base.py lists all keys")
    for key, value in config.items():
        require(
            key in kinds, f"the config has a key {group}{key}, of which configs/base.py knows none"
        )
        require_kind(f"{group}{key}", value, kinds[key])
