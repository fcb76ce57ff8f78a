"""Every config key, declared once: type, default, range, comment, whether a resume may change it.

A group of keys is a frozen dataclass of `key(...)` fields. `trainer.models.<kind>.Settings` has the
keys of a kind of autoencoder, `trainer.data.sources.<source>.Settings` the keys of a data source;
both modules are found by name. Users edit a `ConfigDict` of the same keys, which `parse` turns
into a `Config`. Needs no TensorFlow.
"""

from trainer.config.groups import (
    EXECUTIONS,
    Augment,
    Config,
    Data,
    LossSpikes,
    ModelSettings,
    Stop,
)
from trainer.config.optimizer import SCHEDULES, Averaging, Optimizer
from trainer.config.parsing import (
    config_path,
    defaults,
    describe_keys,
    differences,
    flat,
    hyperparameters,
    kind_package,
    kind_settings,
    kinds,
    load_config,
    located,
    make_data,
    missing_paths,
    parse,
    parse_data,
    parse_model,
    require_key,
    source_of,
    source_settings,
)
from trainer.config.pretraining import Pretrain, phase_ends
from trainer.config.schema import Group, Key, defaults_of, key, keys

__all__ = [
    "EXECUTIONS",
    "SCHEDULES",
    "Augment",
    "Averaging",
    "Config",
    "Data",
    "Group",
    "Key",
    "LossSpikes",
    "ModelSettings",
    "Optimizer",
    "Pretrain",
    "Stop",
    "config_path",
    "defaults",
    "defaults_of",
    "describe_keys",
    "differences",
    "flat",
    "hyperparameters",
    "key",
    "keys",
    "kind_package",
    "kind_settings",
    "kinds",
    "load_config",
    "located",
    "make_data",
    "missing_paths",
    "parse",
    "parse_data",
    "parse_model",
    "phase_ends",
    "require_key",
    "source_of",
    "source_settings",
]
