"""What can end a command, and the exit status that tells a launcher what to do next."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """The user's mistake: a flag, a config, data or a workdir. Never restarted."""

    exit_status = 2


class NonFiniteError(Exception):
    """The loss or the gradients are NaN or infinite and cannot recover by themselves."""

    exit_status = 1


class WorkersError(Exception):
    """Another worker has not come or is gone; all of them are to be started again together."""

    exit_status = 1


class StorageError(Exception):
    """The disk is full or lost; what was whole on it still is, so start again to go on."""

    exit_status = 1


class ExportError(Exception):
    """What was exported does not compute what the trainer does; nothing of it is kept."""

    exit_status = 1


class Preempted(Exception):  # noqa: N818
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


def in_one_line(error: Exception) -> str:
    """What a library's error says, without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def require_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raises UserError unless value is one of those allowed."""
    choices = ", ".join(str(choice) for choice in allowed)
    require(value in allowed, f"{name}={value!r} is not known; allowed: {choices}")


def require_at_least(name: str, value: float, lowest: float) -> None:
    """Raises UserError unless value is a number >= lowest."""
    require(value >= lowest, f"{name}={value} is not allowed; it must be at least {lowest}")
