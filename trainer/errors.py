"""The errors that end a command, with the exit status that a launcher acts on."""

import contextlib
import math
from collections.abc import Iterable, Iterator


class CommandError(Exception):
    """Ends a command with a message of one line, printable whatever is in it, and a status."""

    exit_status: int

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Escapes line breaks, control characters and lone surrogates, so that text is one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UserError(CommandError):
    """The user's mistake: a flag, a config, data or a workdir. Never restarted."""

    exit_status = 2


class NonFiniteError(CommandError):
    """The loss, the gradients or the weights are NaN or infinite."""

    exit_status = 1


class WorkersError(CommandError):
    """Another worker is missing; all workers must be started again together."""

    exit_status = 1


class StorageError(CommandError):
    """A file cannot be written; the last checkpoint is intact, so start again to go on."""

    exit_status = 1


class ExportError(CommandError):
    """An exported model does not compute what the trainer computes; nothing of it is kept."""

    exit_status = 1


class Preempted(CommandError):  # noqa: N818
    """SIGTERM or SIGINT has stopped the command; start it again to go on."""

    exit_status = 75


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Turns an OSError inside into a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what} cannot be written: {error.strerror or error}") from error


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_utf8(arguments: Iterable[str]) -> None:
    """Raises UserError if an argument is not UTF-8: TensorFlow opens no file of such a name."""
    for argument in arguments:
        require(is_utf8(argument), f"{argument!r} is not allowed; it must be UTF-8")


def is_utf8(text: str) -> bool:
    """Whether text can be encoded as UTF-8; a file name may hold other bytes."""
    return text.encode(errors="replace").decode() == text


def in_one_line(error: Exception) -> str:
    """Returns the message of a library's error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def require_kind(name: str, value: object, kind: type) -> None:
    """Raises UserError unless a value is of a type; an int passes as a float, not as a bool.

    Numbers must be finite, and text must be UTF-8 without null characters.
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
    """Raises UserError unless a value is one of the allowed ones."""
    choices = ", ".join(str(choice) for choice in allowed)
    require(value in allowed, f"{name}={value!r} is not known; allowed: {choices}")


def require_at_least(name: str, value: float, lowest: float) -> None:
    """Raises UserError unless a value is at least `lowest`."""
    require(value >= lowest, f"{name}={value} is not allowed; it must be at least {lowest}")
