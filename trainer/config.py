"""Every key of a config, once: type, default, range, comment, and whether a resume may change it.

A group of keys is a frozen dataclass of `key(...)` fields. The keys of a kind of autoencoder are
the `Settings` of `trainer.models.<kind>`, those of a data source the `Settings` of
`trainer.data.sources.<source>`; both are found by name. Needs no TensorFlow.
"""

import dataclasses
from typing import Any

from trainer.errors import require, require_choice

_KEY = "key"  # of a field's metadata


@dataclasses.dataclass(frozen=True)
class Key:
    """What is known of a key besides its name, type and default."""

    comment: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    may_change: bool = False  # when a run is resumed

    def check(self, name: str, value: Any) -> None:
        """Raises UserError unless a value of the right type lies in the range."""
        if self.choices:
            require_choice(name, value, self.choices)
        for number in value if isinstance(value, tuple) else (value,):
            for holds, words in (
                (self.at_least is None or number >= self.at_least, f"at least {self.at_least}"),
                (self.above is None or number > self.above, f"above {self.above}"),
                (self.at_most is None or number <= self.at_most, f"at most {self.at_most}"),
                (self.below is None or number < self.below, f"below {self.below}"),
            ):
                require(holds, f"{name}={value!r} is not allowed; it must be {words}")


def key(default: Any, comment: str, **limits: Any) -> Any:
    """Declares a key as a field of a group; `limits` are the other attributes of `Key`."""
    return dataclasses.field(default=default, metadata={_KEY: Key(comment, **limits)})


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of keys; a subclass adds the keys."""

    def check(self) -> None:
        """Raises UserError where two keys contradict each other."""


def keys(group: type[Group]) -> dict[str, tuple[type, Key]]:
    """The type and the key of each field that `key` declared, by name, in the order of the file."""
    return {
        field.name: (field.type, field.metadata[_KEY])  # type: ignore[misc]
        for field in dataclasses.fields(group)
        if _KEY in field.metadata
    }
