"""Parses a launcher's command line: its own flags stand before `--`, the trainer's after it."""

import itertools
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags

from trainer.errors import UserError, flag_error_in_words, printable, require, require_utf8

_REQUIRED = ("config", "workdir")


def run(main: Callable[[list[str]], int]) -> None:
    """Parses the launcher's flags, calls `main` with the trainer's, and exits with its status.

    A mistake of the user is reported in one line, with exit status 2.
    """
    app.run(lambda argv: _run(main, argv), flags_parser=_parse)


def flag_value(trainer_flags: list[str], name: str) -> str | None:
    """Returns the value of `--name=value` or `--name value`, the last where it is repeated."""
    value = None
    for flag, following in itertools.zip_longest(trainer_flags, trainer_flags[1:], fillvalue=""):
        given, has_value, own_value = flag.lstrip("-").partition("=")
        if flag.startswith("-") and given == name:
            value = own_value if has_value else following
    return value


def _run(main: Callable[[list[str]], int], trainer_flags: list[str]) -> None:
    try:
        for name in _REQUIRED:
            require(
                bool(flag_value(trainer_flags, name)),
                f"--{name}=... is missing; the trainer's flags follow the launcher's after --",
            )
        sys.exit(main(trainer_flags))
    except UserError as error:
        _exit(str(error))


def _parse(argv: list[str]) -> list[str]:
    end = argv.index("--") if "--" in argv else len(argv)
    try:
        require_utf8(argv)
        rest = flags.FLAGS(argv[:end])
    except SystemExit:  # absl exits with 1 after --help
        sys.exit(0)
    except UserError as error:
        _exit(str(error))
    except (flags.Error, ValueError) as error:  # absl raises either for a bad value
        _exit(f"{flag_error_in_words(error)}; the trainer's flags stand after --")
    if rest[1:]:
        _exit(f"{rest[1]!r} is not a flag; flags are written --name=value, the trainer's after --")
    return argv[end + 1 :]


def _exit(message: str) -> NoReturn:
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(UserError.exit_status)
