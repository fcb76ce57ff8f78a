"""What can end a command, and the exit status that tells a launcher what to do next."""

import contextlib
import math
from collections.abc import Iterable, Iterator


class CommandError(Exception):
    """Ends a command, which says why in one line that a terminal can show, whatever is in it."""

    exit_status: int

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Text in one line: what breaks it, moves a cursor or has no encoding is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UserError(CommandError):
    """The user's mistake: a flag, a config, data or a workdir. Never restarted."""

    exit_status = 2


class NonFiniteError(CommandError):
    """The loss or the gradients are NaN or infinite and cannot recover by themselves."""

    exit_status = 1


class WorkersError(CommandError):
    """Another worker has not come or is gone; all of them are to be started again together."""

    exit_status = 1


class StorageError(CommandError):
    """The disk is full or lost; what was whole on it still is, so start again to go on."""

    exit_status = 1


class ExportError(CommandError):
    """What was exported does not compute what the trainer does; nothing of it is kept."""

    exit_status = 1


class Preempted(CommandError):  # noqa: N818
    """SIGTERM or Ctrl-C: nothing is lost, start the same command again."""

    exit_status = 75


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Raises StorageError, which names what is written, where the system would not write it."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what} cannot be written: {error.strerror or error}") from error


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_utf8(arguments: Iterable[str]) -> None:
    """Raises UserError if one cannot be encoded: TensorFlow opens no file of such a name."""
    for argument in arguments:
        require(is_utf8(argument), f"{argument!r} is not allowed; it must be UTF-8")


def is_utf8(text: str) -> bool:
    """Whether text can be encoded: a file's name may hold bytes that are no characters."""
    return text.encode(errors="replace").decode() == text


def in_one_line(error: Exception) -> str:
    """What a library's error says, without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def require_kind(name: str, value: object, kind: type) -> None:
    """Raises UserError unless value is of a kind.

    An int passes as a float, a bool only as a bool.
    """
    right = isinstance(value, int | float if kind is float else kind)
    require(
        right and (kind is bool or not isinstance(value, bool)),
        f"{name}={value!r} is not allowed; it takes a value of type {kind.__name__}",
    )
    if isinstance(value, float):
        require(math.isfinite(value), f"{name}={value} is not allowed; it must be finite")
    if isinstance(value, str):
        require(
            is_utf8(value) and "\0" not in value,
            f"{name}={value!r} is not allowed; it must be text",
        )


def require_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raises UserError unless value is one of those allowed."""
    choices = ", ".join(str(choice) for choice in allowed)
    require(value in allowed, f"{name}={value!r} is not known; allowed: {choices}")


def require_at_least(name: str, value: float, lowest: float) -> None:
    """Raises UserError unless value is a number >= lowest."""
    require(value >= lowest, f"{name}={value} is not allowed; it must be at least {lowest}")
