"""Parses a user's ConfigDict into the checked values of every key."""

import dataclasses
import difflib
import functools
import importlib
import json
import os
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from trainer.config.groups import (
    Augment,
    Config,
    Data,
    LossSpikes,
    ModelSettings,
    Stop,
)
from trainer.config.optimizer import Averaging, Optimizer
from trainer.config.pretraining import Pretrain
from trainer.config.schema import Group, Key, defaults_of, keys
from trainer.errors import UserError, in_one_line, require, require_choice, require_kind

# Packages whose modules are found by name.
_CONFIGS, _KINDS, _SOURCES = "configs", "trainer.models", "trainer.data.sources"

# The groups whose keys do not depend on the kind of autoencoder or on the data.
_GROUPS: Mapping[str, type[Group]] = {
    "optimizer": Optimizer,
    "spikes": LossSpikes,
    "stop": Stop,
    "augment": Augment,
    "averaging": Averaging,
    "pretrain": Pretrain,
}

_Group = TypeVar("_Group", bound=Group)


def kinds() -> tuple[str, ...]:
    """Returns the kinds of autoencoder, the packages in trainer/models."""
    path = importlib.import_module(_KINDS).__path__
    return tuple(module.name for module in pkgutil.iter_modules(path) if module.ispkg)


def kind_settings(kind: str) -> type[ModelSettings]:
    """Returns the keys of a kind.

    Raises:
      UserError: there is no such kind.
    """
    require_kind("model.name", kind, str)
    if "." not in kind:
        require_choice("model.name", kind, kinds())
    try:
        settings = importlib.import_module(kind_package(kind)).Settings
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"model.name={kind!r} is not allowed: {in_one_line(error)}; it names a package with "
            "Settings and a module model, which Python can import"
        ) from error
    require(
        isinstance(settings, type) and issubclass(settings, ModelSettings),
        f"model.name={kind!r} is not allowed: its Settings are no {ModelSettings.__name__}",
    )
    return settings


def kind_package(kind: str) -> str:
    """Returns the package of a kind: in trainer/models, or a dotted name as it is."""
    return kind if "." in kind else f"{_KINDS}.{kind}"


@functools.cache
def source_settings() -> dict[str, type[Data]]:
    """Returns the class of the data keys of each source."""
    path = importlib.import_module(_SOURCES).__path__
    return {module.name: _source(module.name).Settings for module in pkgutil.iter_modules(path)}


def source_of(name: str) -> str:
    """Returns the source of a data.name: the text before a colon, or "tfds"."""
    source = name.partition(":")[0]
    return source if source in source_settings() else "tfds"


def defaults(kind: str = "dense") -> ConfigDict:
    """Returns a locked config of a kind with every key at its default, to be edited.

    Raises:
      UserError: there is no such kind.
    """
    model = defaults_of(kind_settings(kind)) | {"name": kind}
    data = _data_defaults()
    groups = {name: defaults_of(group) for name, group in _GROUPS.items()}
    return ConfigDict({"model": model, "data": data, **groups, **defaults_of(Config)}).lock()


def parse(config: Config | ConfigDict | Mapping[str, Any]) -> Config:
    """Checks every key of a config and returns its values.

    `data` has the common keys and the keys of the source, without the keys of other sources.

    Raises:
      UserError: a key is missing or not known, has a value of another type or out of its range, or
        contradicts another.
    """
    if isinstance(config, Config):
        return config
    values = dict(config.to_dict() if isinstance(config, ConfigDict) else config)
    groups: dict[str, Any] = {
        **{
            name: _parse(f"{name}.", group, _group(values, name)) for name, group in _GROUPS.items()
        },
        "data": parse_data(_group(values, "data")),
        "model": parse_model(_group(values, "model")),
    }
    return _parse("", Config, values, **groups)


def parse_model(values: Mapping[str, Any]) -> ModelSettings:
    """Checks the keys of a kind, as `parse` does, and returns its `Settings`."""
    require("name" in values, "the config lacks model.name")
    return _parse("model.", kind_settings(values["name"]), values)


def make_data(name: str, **values: Any) -> Data:
    """Returns the keys of the data of a source: the values, and the defaults of other keys.

    Raises:
      UserError: as `parse`.
    """
    data = _data_defaults()
    return parse_data(data | values | {"name": name})


def parse_data(values: Data | ConfigDict | Mapping[str, Any]) -> Data:
    """Checks the keys of the data, as `parse` does."""
    if isinstance(values, Data):
        return values
    kept = dict(values.to_dict() if isinstance(values, ConfigDict) else values)
    require("name" in kept, "the config lacks data.name")
    name = kept["name"]
    require_kind("data.name", name, str)
    source = source_of(name)
    own = source_settings()[source]
    for other, group in source_settings().items():
        for key, default in defaults_of(group).items():
            value = default if key in keys(own) else kept.pop(key, default)
            value = tuple(value) if isinstance(value, list) else value  # as JSON keeps tuples
            require(
                type(value) is type(default) and value == default,
                f"data.{key}={value!r} is not allowed with {name!r}; it is for data of {other}",
            )
    data = _parse("data.", own, kept)
    module = _source(source)
    require(
        module.RESIZES or data.image_size == 0,
        f"data.image_size={data.image_size} is not allowed with {name!r}; examples of "
        f"data.name={module.EXAMPLE} and the like keep their shape",
    )
    require(
        module.STAYS_IN_FILES or data.placement != "records",
        f"data.placement='records' is not allowed with {name!r}; examples of "
        f"data.name={module.EXAMPLE} and the like are held in memory",
    )
    return data


def require_key(key: object, known: Collection[str]) -> None:
    """Raises UserError unless a dotted key is known; suggests a close key, lists its group."""
    if key in known:
        return
    group, name = _group_and_name(str(key))
    pairs = [_group_and_name(other) for other in known]
    names = [other for its_group, other in pairs if its_group == group]
    close = [f"{group}.{n}".lstrip(".") for n in difflib.get_close_matches(name, names, n=1)]
    close += [f"{its_group}.{name}" for its_group, other in pairs if other == name]
    close += [] if names else difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    groups = dict.fromkeys(f"{its_group}.KEY" if its_group else other for its_group, other in pairs)
    allowed = ", ".join(names or groups)
    raise UserError(f"{key!r} is not a key of the config; {hint}allowed: {allowed}")


def _group_and_name(key: str) -> tuple[str, str]:
    """Splits a dotted key at its last dot; the group of a key without a dot is ""."""
    group, _, name = key.rpartition(".")
    return group, name


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
    """Returns the values that the trained weights depend on, by dotted keys."""
    return {
        name: value
        for name, key, value in _walk(config)
        if key.is_hyperparameter or not key.may_change
    }


def describe_keys(config: Config) -> Iterator[tuple[str, Any, str]]:
    """Yields each dotted key, its value and its comment with what is allowed."""
    for name, key, value in _walk(config):
        yield name, value, key.description()


def differences(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Returns both values of each dotted key that differs but may not change in a run.

    Ignores the paths of files, which may be moved. Of models of different kinds, only the names
    are compared.
    """
    old, new = ({name: (key, value) for name, key, value in _walk(c)} for c in (before, after))
    ignored = {name for name, (key, _) in new.items() if key.may_change}
    ignored |= after.keys_set_by_budget if before.budget == after.budget else set()
    if type(before.model) is not type(after.model):
        ignored |= {name for name in new if name.startswith("model.")} - {"model.name"}
    source = source_of(before.data.name)
    if source == source_of(after.data.name) and _source(source).PATH_MAY_MOVE:
        ignored.add("data.name")
    pairs = {name: (old[name][1], new[name][1]) for name in sorted(old.keys() & new.keys())}
    return {name: p for name, p in pairs.items() if name not in ignored and p[0] != p[1]}


def located(data: Data, folder: str, moved_to: str = "") -> Data:
    """Returns the keys of data whose files may have moved.

    A path that is not there is looked for in `folder`, where the run began.

    Args:
      data: the keys of the data of a run.
      folder: what relative paths were relative to.
      moved_to: where the data are now, a path or written as data.name; "": where they were.

    Raises:
      UserError: `moved_to` is of another source, or of one whose examples are not files.
    """
    source = data.name.partition(":")[0]
    may_move = _source(source_of(data.name)).PATH_MAY_MOVE
    if moved_to:
        if moved_to.partition(":")[0] not in source_settings():  # a path alone
            moved_to = f"{source}:{moved_to}"
        require(
            may_move and source_of(moved_to) == source,
            f"data={moved_to!r} is not allowed for a run on {data.name!r}; "
            + (f"it is written {source}:PATH" if may_move else "its data have no path"),
        )
        return dataclasses.replace(data, name=moved_to)
    if not may_move:
        return data
    parts = _path_parts(data.name)
    here = [Path(part) for part in parts]
    there = [Path(os.path.normpath(Path(folder) / part)) for part in parts]
    if all(path.exists() for path in here) or not all(path.exists() for path in there):
        return data
    return dataclasses.replace(data, name=f"{source}:{','.join(map(str, there))}")


def missing_paths(data: Data) -> list[str]:
    """Returns the paths of a config's data that do not exist; [] for a source without paths."""
    if not _source(source_of(data.name)).PATH_MAY_MOVE:
        return []
    return [part for part in _path_parts(data.name) if not Path(part).exists()]


def _path_parts(name: str) -> list[str]:
    """Returns the paths in a data.name: one, or several separated by commas."""
    argument = name.partition(":")[2]
    return argument.split(",") if _source(source_of(name)).SEVERAL_PATHS else [argument]


def config_path(name: str) -> Path:
    """Returns the file of an installed config by its name: configs/dense.py for `dense`.

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


def _data_defaults() -> dict[str, Any]:
    """Returns the defaults of the keys of all sources."""
    groups = source_settings().values()
    return {key: value for group in groups for key, value in defaults_of(group).items()}


def _source(name: str) -> Any:
    return importlib.import_module(f"{_SOURCES}.{name}")


def _group(values: dict[str, Any], name: str) -> Mapping[str, Any]:
    """Removes a group of keys from the values, and returns it."""
    require(name in values, f"the config lacks {name}")
    group = values.pop(name)
    if not isinstance(group, Mapping):
        some = ", ".join(keys({**_GROUPS, "data": Data, "model": ModelSettings}[name]))
        mistake = f"{name}={group!r} is not allowed"
        raise UserError(f"{mistake}; it takes a group of keys, such as {some}")
    return group


def _parse(prefix: str, group: type[_Group], values: Mapping[str, Any], **groups: Any) -> _Group:
    known = keys(group)
    for name in values:
        require_key(f"{prefix}{name}", [prefix + other for other in known])
    for name, default in defaults_of(group).items():
        require(
            name in values,
            f"the config lacks {prefix}{name}; add it with a value "
            f"(the default is {json.dumps(default)})",
        )
    parsed = {
        name: key.parse(prefix + name, kind, values[name]) for name, (kind, key) in known.items()
    }
    made = group(**parsed, **groups)
    made.check()
    return made


def _walk(group: Group, prefix: str = "") -> Iterator[tuple[str, Key, Any]]:
    """Yields each dotted key, its `Key` and its value."""
    known = keys(type(group))
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if isinstance(value, Group):
            yield from _walk(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, known[field.name][1], value
