"""Reads the grid of a sweep: the values of some keys of the config, in every combination."""

import itertools
import re
from collections.abc import Mapping, Sequence

from trainer.errors import require

_KEY = r"config(\.\w+)+"
_VALUE_SEPARATOR = r",(?![^(\[]*[)\]])"  # a comma outside of a tuple
_UNSAFE = r"[^\w.+-]+"  # for the name of a folder


def read(texts: Sequence[str]) -> dict[str, list[str]]:
    """Returns the values of each key, from texts such as `config.model.code_size=2,8`.

    Raises:
      UserError: a text has another form, or repeats a key or a value.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        key, _, listed = text.partition("=")
        values = [value.strip() for value in re.split(_VALUE_SEPARATOR, listed)]
        require(
            re.fullmatch(_KEY, key) is not None and all(values),
            f"--grid={text} is not allowed; it takes config.KEY=VALUE,VALUE,...",
        )
        require(key not in grid, f"--grid gives {key} twice; one --grid takes all values of a key")
        twice = sorted({value for value in values if values.count(value) > 1})
        require(not twice, f"--grid={text} gives {', '.join(twice)} twice")
        grid[key] = values
    return grid


def combinations(grid: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Returns every combination of one value per key, by its folder, as `code_size=2,seed=0`.

    Raises:
      UserError: two combinations have the same name.
    """
    short = _short_names(list(grid))
    runs: dict[str, dict[str, str]] = {}
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        name = ",".join(
            f"{short[key]}={re.sub(_UNSAFE, '_', value).strip('_')}"
            for key, value in settings.items()
        )
        require(
            name not in runs,
            f"--grid: the folder {name} would be that of {runs.get(name)} and of {settings}",
        )
        runs[name] = settings
    return runs


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Returns the shortest suffix of each key that no other key has."""
    names = {}
    for key in keys:
        parts = key.split(".")
        endings = (".".join(parts[first:]) for first in reversed(range(len(parts))))
        names[key] = next(e for e in endings if sum(f".{k}".endswith(f".{e}") for k in keys) == 1)
    return names
