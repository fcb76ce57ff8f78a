"""Describes the keys of a config for --help."""

import textwrap

from ml_collections import ConfigDict

from trainer.config import describe_keys, parse

_WIDTH = 100


def describe(config: ConfigDict) -> str:
    """Returns a flag a line for each key, its value in the config, and its comment."""
    lines = []
    for name, value, comment in describe_keys(parse(config)):
        lines.append(f"--config.{name}={value!r}")
        lines += textwrap.wrap(comment, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
