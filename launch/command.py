"""Flags in, exit status out: a launcher's flags stand before `--`, the trainer's after it."""

import itertools
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags

from trainer.errors import UserError, printable, require, require_utf8

_NEEDED = ("config", "workdir")


def run(main: Callable[[list[str]], int]) -> None:
    """Parses the launcher's flags, hands `main` the trainer's and leaves with what it returns.

    2 where the user is mistaken, told in one line.
    """
    app.run(lambda argv: _run(main, argv), flags_parser=_parse)


def value_of(trainer_flags: list[str], name: str) -> str | None:
    """What the trainer's flags give as `--name=value` or `--name value`; the last if several."""
    value = None
    for flag, following in itertools.zip_longest(trainer_flags, trainer_flags[1:], fillvalue=""):
        given, has_value, its_value = flag.lstrip("-").partition("=")
        if flag.startswith("-") and given == name:
            value = its_value if has_value else following
    return value


def _run(main: Callable[[list[str]], int], trainer_flags: list[str]) -> None:
    try:
        for name in _NEEDED:
            require(
                bool(value_of(trainer_flags, name)),
                f"the trainer's --{name}=... is missing; its flags follow the launcher's after --",
            )
        sys.exit(main(trainer_flags))
    except UserError as error:
        _leave(str(error))


def _parse(argv: list[str]) -> list[str]:
    end = argv.index("--") if "--" in argv else len(argv)
    try:
        require_utf8(argv)
        rest = flags.FLAGS(argv[:end])
    except SystemExit:  # of absl's --help, with 1
        sys.exit(0)
    except UserError as error:
        _leave(str(error))
    except (flags.Error, ValueError) as error:  # absl raises both of a value
        _leave(f"{error}; the trainer's flags stand after --")
    if rest[1:]:
        _leave(f"{rest[1]!r} is no flag; flags are written --name=value, the trainer's after --")
    return argv[end + 1 :]


def _leave(message: str) -> NoReturn:
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(UserError.exit_status)
