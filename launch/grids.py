"""The runs of a sweep: the product of the values that a grid gives to keys of the config."""

import itertools
import re
from collections.abc import Mapping, Sequence

from trainer.errors import require

_KEY = r"config(\.\w+)+"
_BETWEEN_VALUES = r",(?![^(\[]*[)\]])"  # no comma of a tuple
_UNSAFE = r"[^\w.+-]+"  # in the name of a folder


def read(texts: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key, of texts as `config.model.code_size=2,8`.

    Raises:
      UserError: a text is not like that, or gives a key or a value twice.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        key, _, listed = text.partition("=")
        values = [value.strip() for value in re.split(_BETWEEN_VALUES, listed)]
        require(
            re.fullmatch(_KEY, key) is not None and all(values),
            f"--grid={text} is not allowed; it takes config.KEY=VALUE,VALUE,...",
        )
        require(key not in grid, f"--grid gives {key} twice; allowed: all its values in one")
        twice = sorted({value for value in values if values.count(value) > 1})
        require(not twice, f"--grid={text} gives {', '.join(twice)} twice")
        grid[key] = values
    return grid


def product(grid: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Each combination of one value a key, by a name that is a folder's: `code_size=2,seed=0`.

    Raises:
      UserError: two combinations have the same name.
    """
    shorts = _shorts(list(grid))
    runs: dict[str, dict[str, str]] = {}
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        name = ",".join(f"{shorts[key]}={_safe(value)}" for key, value in settings.items())
        require(
            name not in runs,
            f"--grid: the folder {name} would be that of {runs.get(name)} and of {settings}",
        )
        runs[name] = settings
    return runs


def _shorts(keys: Sequence[str]) -> dict[str, str]:
    """Each key by its last part, or by as many of its last as tell it from the others."""
    shorts = {}
    for key in keys:
        parts = key.split(".")
        tails = (".".join(parts[first:]) for first in reversed(range(len(parts))))
        shorts[key] = next(t for t in tails if sum(f".{k}".endswith(f".{t}") for k in keys) == 1)
    return shorts


def _safe(value: str) -> str:
    return re.sub(_UNSAFE, "_", value).strip("_")
