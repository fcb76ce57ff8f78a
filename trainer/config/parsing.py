"""From a user's ConfigDict to the checked values of every key."""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from trainer.config.groups import Config, Data, LossSpikes, ModelSettings, Optimizer
from trainer.config.schema import Group, Key, defaults_of, key, keys
from trainer.errors import require, require_choice, require_kind

_CONFIGS, _KINDS = "configs", "trainer.models"  # packages that are searched at run time

_Group = TypeVar("_Group", bound=Group)


# Until the sources declare these themselves.
@dataclasses.dataclass(frozen=True)
class Images(Group):
    """Keys."""

    fit: str = key(
        "stretch",
        "How an image becomes a square of image_size: stretched, cropped to its middle, or padded.",
        choices=("stretch", "crop", "pad"),
    )
    channels: int = key(
        0, "Channels of the images: 1 grey, 3 colour; 0: as they all are.", choices=(0, 1, 3)
    )
    cache_dir: str = key(
        "", 'Folder where decoded images are kept; "": .decoded in their own.', may_change=True
    )


@dataclasses.dataclass(frozen=True)
class Table(Group):
    """Keys."""

    label_column: str = key("", 'Column of the labels, whole numbers or words; "": none.')
    drop_columns: str = key("", "Columns to leave out, separated by commas.")
    impute: str = key(
        "",
        'Fill in missing numbers by this statistic of the training split; "": refuse them.',
        choices=("", "mean", "median"),
    )


_SOURCES: dict[str, type[Group]] = {
    **dict.fromkeys(("digits", "noise", "memory", "arrays", "tfds"), Group),
    "images": Images,
    "table": Table,
}
_MOVABLE = ("arrays", "images", "table")  # sources of files, wherever they lie


def kinds() -> tuple[str, ...]:
    """Returns the kinds of autoencoder, the packages in trainer/models."""
    path = importlib.import_module(_KINDS).__path__
    return tuple(module.name for module in pkgutil.iter_modules(path) if module.ispkg)


def kind_settings(kind: str) -> type[ModelSettings]:
    """Returns the keys of a kind.

    Raises:
      UserError: there is no such kind.
    """
    require_choice("model.name", kind, kinds())
    return importlib.import_module(f"{_KINDS}.{kind}").Settings


def source_settings() -> dict[str, type[Group]]:
    """Returns the keys that a data source takes besides those of `Data`, by source."""
    return _SOURCES


def source_of(name: str) -> str:
    """Returns the source of a data.name: the text before a colon, or "tfds"."""
    source = name.partition(":")[0]
    return source if source in source_settings() else "tfds"


@functools.cache
def data_settings(source: str) -> type[Data]:
    """Returns the keys that the data of a source take."""
    own = source_settings()[source]
    bases = (Data,) if own is Group else (own, Data)
    return dataclasses.dataclass(frozen=True)(type("Data", bases, {"__doc__": Data.__doc__}))


def defaults(kind: str = "dense") -> ConfigDict:
    """Returns a locked config of a kind with every key at its default, to be edited.

    Raises:
      UserError: there is no such kind.
    """
    model = defaults_of(kind_settings(kind)) | {"name": kind}
    data = defaults_of(Data)
    for group in source_settings().values():
        data |= defaults_of(group)
    groups = {"optimizer": defaults_of(Optimizer), "spikes": defaults_of(LossSpikes)}
    return ConfigDict({"model": model, "data": data, **groups, **defaults_of(Config)}).lock()


def parse(config: Config | ConfigDict | Mapping[str, Any]) -> Config:
    """Checks every key of a config and returns its values.

    `data` has the common keys and those of the source; keys of other sources are left out.

    Raises:
      UserError: a key is missing or not known, has a value of another type or out of its range, or
        contradicts another.
    """
    if isinstance(config, Config):
        return config
    values = dict(config.to_dict() if isinstance(config, ConfigDict) else config)
    groups: dict[str, Any] = {
        "optimizer": _parse("optimizer.", Optimizer, _group(values, "optimizer")),
        "spikes": _parse("spikes.", LossSpikes, _group(values, "spikes")),
        "data": parse_data(_group(values, "data")),
        "model": parse_model(_group(values, "model")),
    }
    return _parse("", Config, values, **groups)


def parse_model(values: Mapping[str, Any]) -> ModelSettings:
    """Checks the keys of a kind, as `parse` does, and returns its `Settings`."""
    require("name" in values, "the config has no model.name")
    return _parse("model.", kind_settings(values["name"]), values)


def parse_data(values: Mapping[str, Any]) -> Data:
    """Checks the keys of the data, as `parse` does."""
    require("name" in values, "the config has no data.name")
    require_kind("data.name", values["name"], str)
    source = source_of(values["name"])
    own = data_settings(source)
    kept = dict(values)
    for other, group in source_settings().items():
        for name, default in defaults_of(group).items():
            if name not in keys(own) and name in kept:
                value = kept.pop(name)
                require(
                    type(value) is type(default) and value == default,
                    f"data.{name}={value!r} is not allowed with {values['name']!r}; "
                    f"data of {other} alone take it",
                )
    return _parse("data.", own, kept)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested dicts by their dotted keys."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def hyperparameters(config: Config) -> dict[str, Any]:
    """Returns the values, by dotted keys, that the trained weights depend on."""
    return {
        name: value
        for name, key, value in _walk(config)
        if key.is_hyperparameter or not key.may_change
    }


def differences(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Returns both values of each dotted key that differs and may not change in a run.

    The files of a source may be moved. Of another kind, only the name is compared.
    """
    old, new = ({name: (key, value) for name, key, value in _walk(c)} for c in (before, after))
    ignored = {name for name, (key, _) in new.items() if key.may_change}
    if type(before.model) is not type(after.model):
        ignored |= {name for name in new if name.startswith("model.")} - {"model.name"}
    if source_of(before.data.name) == source_of(after.data.name) in _MOVABLE:
        ignored.add("data.name")
    pairs = {name: (old[name][1], new[name][1]) for name in sorted(old.keys() & new.keys())}
    return {name: p for name, p in pairs.items() if name not in ignored and p[0] != p[1]}


def config_path(name: str) -> Path:
    """Returns the file of a config that is installed with the trainer: `dense` is configs/dense.py.

    Raises:
      UserError: no config has this name.
    """
    (folder,) = importlib.import_module(_CONFIGS).__path__
    names = sorted(file.stem for file in Path(folder).glob("[a-z]*.py"))
    require_choice("config", name, tuple(name for name in names if name != "base"))
    return Path(folder) / f"{name}.py"


def load_config(name: str) -> ConfigDict:
    """Returns a config by its name, to be edited.

    Raises:
      UserError: no config has this name.
    """
    return importlib.import_module(f"{_CONFIGS}.{config_path(name).stem}").get_config()


def _group(values: dict[str, Any], name: str) -> Mapping[str, Any]:
    """Takes a group of keys out of the values."""
    require(name in values, f"the config has no {name}")
    group = values.pop(name)
    require(
        isinstance(group, Mapping), f"{name}={group!r} is not allowed; it takes a group of keys"
    )
    return group


def _parse(prefix: str, group: type[_Group], values: Mapping[str, Any], **groups: Any) -> _Group:
    known = keys(group)
    for name in values:
        require(
            name in known,
            f"the config has a key {prefix}{name} that is not known; allowed: {', '.join(known)}",
        )
    for name in known:
        require(name in values, f"the config has no {prefix}{name}")
    parsed = {
        name: key.parse(prefix + name, kind, values[name]) for name, (kind, key) in known.items()
    }
    made = group(**parsed, **groups)
    made.check()
    return made


def _walk(group: Group, prefix: str = "") -> Iterator[tuple[str, Key, Any]]:
    """Yields each dotted key with what is known of it and its value."""
    known = keys(type(group))
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if isinstance(value, Group):
            yield from _walk(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, known[field.name][1], value
