"""Defines a key of a config as a field of a frozen dataclass, with a range and a comment."""

import dataclasses
import sys
import typing
from typing import Any

from trainer.errors import require, require_choice, require_kind

_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}
_KEY = "key"  # in the metadata of a field
_MAX_INT = 2**63 - 1  # of TensorFlow's int64


@dataclasses.dataclass(frozen=True)
class Key:
    """Describes a key, except for its name, type and default."""

    comment: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    may_change: bool = False  # when a run is resumed
    is_hyperparameter: bool = False  # with may_change: the weights depend on it all the same

    def parse(self, name: str, kind: type, value: Any) -> Any:
        """Returns a value in the type of its key: a tuple for a list, a float for an integer.

        Raises:
          UserError: the value is of another type, out of the range, or not one of the choices.
        """
        if typing.get_origin(kind) is tuple:
            element = typing.get_args(kind)[0]
            allowed = (int, float) if element is float else (element,)
            require(
                isinstance(value, tuple | list) and all(type(part) in allowed for part in value),
                f"{name}={value!r} is not allowed; it takes a tuple of {_PLURALS[element]}",
            )
            value = tuple(_parse_one(name, element, part) for part in value)
        else:
            value = _parse_one(name, kind, value)
        if self.choices:
            require_choice(name, value, self.choices)
        for number in value if isinstance(value, tuple) else (value,):
            within = (
                (self.at_least is None or number >= self.at_least)
                and (self.above is None or number > self.above)
                and (self.at_most is None or number <= self.at_most)
                and (self.below is None or number < self.below)
            )
            require(within, f"{name}={value!r} is not allowed; it must be {self.range_in_words()}")
            require(
                not isinstance(number, int) or abs(number) <= _MAX_INT,
                f"{name}={value!r} is not allowed; a whole number is at most {_MAX_INT}",
            )
        return value

    def description(self) -> str:
        """Returns the comment with what is allowed."""
        allowed = ", ".join(map(repr, self.choices)) or self.range_in_words()
        return f"{self.comment} Allowed: {allowed}." if allowed else self.comment

    def range_in_words(self) -> str:
        """Returns the limits, as "above 0 and at most 1"; "" without limits."""
        limits = ("at_least", "above", "at_most", "below")
        return " and ".join(
            f"{limit.replace('_', ' ')} {getattr(self, limit)}"
            for limit in limits
            if getattr(self, limit) is not None
        )


def _parse_one(name: str, kind: type, value: Any) -> Any:
    require_kind(name, value, kind)
    if kind is not float:
        return value
    require(abs(value) <= sys.float_info.max, f"{name}={value} is not allowed; it must be finite")
    return float(value)


def key(default: Any, comment: str, **limits: Any) -> Any:
    """Declares a key as a field of a group; `limits` are the other attributes of `Key`.

    A subclass may give the key another default, by a field of the same name without `key`.
    """
    return dataclasses.field(default=default, metadata={_KEY: Key(comment, **limits)})


@dataclasses.dataclass(frozen=True)
class Group:
    """Groups keys, which a subclass declares."""

    def check(self) -> None:
        """Raises UserError where two keys contradict each other."""


def keys(group: type[Group]) -> dict[str, tuple[Any, Key]]:
    """Returns the type and the `Key` of each field that `key` declared, by name and in order.

    Raises:
      TypeError: a class declares keys, but is not a dataclass.
    """
    known: dict[str, Key] = {}
    for base in reversed(group.__mro__):
        if any(isinstance(value, dataclasses.Field) for value in vars(base).values()):
            raise TypeError(
                f"{base.__module__}.{base.__name__} declares keys but is not a dataclass"
            )
        if dataclasses.is_dataclass(base):
            for field in dataclasses.fields(base):
                known |= {field.name: field.metadata[_KEY]} if _KEY in field.metadata else {}
    fields = dataclasses.fields(group)
    return {field.name: (field.type, known[field.name]) for field in fields if field.name in known}


def defaults_of(group: type[Group]) -> dict[str, Any]:
    """Returns the default of each key, by name."""
    defaults = {field.name: field.default for field in dataclasses.fields(group)}
    return {name: defaults[name] for name in keys(group)}
