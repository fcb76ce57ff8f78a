"""The keys of config.data that every data set takes, and how a group of keys is read."""

import dataclasses
from typing import Any, TypeVar

from trainer.config import Group, key, keys

_MAX_SIDE = 16_384  # pixels
_AnyGroup = TypeVar("_AnyGroup", bound=Group)


@dataclasses.dataclass(frozen=True)
class Data(Group):
    """The keys that every data set takes."""

    name: str = key("digits", "Where the examples come from: see docs/data.md.")
    image_size: int = key(
        0,
        "Resize images to squares of this many pixels a side; 0: keep their size.",
        at_least=0,
        at_most=_MAX_SIDE,
    )
    validation_fraction: float = key(
        0.05, "Share of the training examples held out to validate.", above=0, below=1
    )
    resplit_test: float = key(
        0.0,
        "Use the test split alone, this share of it to test and the rest to train; 0: do not.",
        at_least=0,
        below=1,
    )
    placement: str = key(
        "auto",
        "Where the training images lie: on the device, on the host, in files (records); "
        "auto: the first of these where they fit.",
        choices=("auto", "device", "host", "records"),
        may_change=True,
    )
    memory_gib: float = key(
        0.0, "GiB of host memory for images; 0: most of what is free.", at_least=0, may_change=True
    )
    standardise: bool = key(
        False, "Scale vectors' features to mean 0 and standard deviation 1 of the training split."
    )
    binarise: bool = key(
        False, "Draw each pixel once as black or white, by its intensity: static binarisation."
    )


def parse(group: type[_AnyGroup], settings: Any) -> _AnyGroup:
    """Returns a group of data keys from the attributes of `settings`; absent ones: the defaults.

    Raises:
      UserError: a value is out of its range, or two contradict each other.
    """
    values = {}
    for name, (_, declared) in keys(group).items():
        values[name] = getattr(settings, name, getattr(group, name))
        declared.check(f"data.{name}", values[name])
    parsed = group(**values)
    parsed.check()
    return parsed
