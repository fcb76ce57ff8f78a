"""Defines the errors that end a command, each with the exit status that a launcher acts on."""

import contextlib
import difflib
import errno
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CommandError(Exception):
    """Ends a command with an exit status and a message, made printable and one line."""

    exit_status: int

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Escapes line breaks, control characters and lone surrogates; returns one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UserError(CommandError):
    """Reports a mistake of the user in a flag, config, data or workdir; never restarted."""

    exit_status = 2


class NonFiniteError(CommandError):
    """Reports NaN or infinity in loss, gradients or weights, or more loss spikes than allowed."""

    exit_status = 1


class WorkersError(CommandError):
    """Reports a missing worker; all workers must be started again together."""

    exit_status = 1


class AbsentWorkersError(WorkersError):
    """Reports workers that did not connect before the startup timeout, such as unscheduled pods."""

    exit_status = 76


class StorageError(CommandError):
    """Reports a file that cannot be written, as on a full disk; a training resumes when started."""

    exit_status = 1


class ExportError(CommandError):
    """Reports an export that fails to load or differs from the trainer; the export is deleted."""

    exit_status = 1


class Preempted(CommandError):  # noqa: N818
    """Reports that SIGTERM or SIGINT stopped the command; a new start resumes the work."""

    exit_status = 75


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Turns an OSError inside into a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what} cannot be written: {error.strerror or error}") from error


def full_disk(error: Exception) -> str:
    """Returns the reason if an error means a full disk, "" if another.

    Libraries that write files report a full disk by its number or in their message.
    """
    if getattr(error, "errno", None) in _FULL_DISK:
        return os.strerror(error.errno)  # type: ignore[attr-defined]
    reasons = (*map(os.strerror, _FULL_DISK), "Not enough disk space")  # the last of TFDS
    return next((reason for reason in reasons if reason in str(error)), "")


def unwritable(what: object, error: Exception, advice: str = "") -> CommandError:
    """Describes an output that cannot be written: StorageError on a full disk, else UserError."""
    kind = StorageError if full_disk(error) else UserError
    reason = full_disk(error) or _no_folder(error) or getattr(error, "strerror", None)
    return kind(f"{what} cannot be written: {reason or in_one_line(error)}{advice}")


def _no_folder(error: Exception) -> str:
    """Names the file that is in the place of a folder to be made; "" for another error."""
    if not isinstance(error, FileExistsError | NotADirectoryError) or not error.filename:
        return ""
    path = Path(error.filename)
    found = next(filter(Path.exists, (path, *path.parents)), path)
    return f"{str(found)!r} is a file, not a folder" if found.is_file() else ""


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_utf8(arguments: Iterable[str]) -> None:
    """Raises UserError if an argument is not UTF-8: TensorFlow opens no file of such a name."""
    for argument in arguments:
        require(is_utf8(argument), f"{argument!r} is not allowed; it must be UTF-8")


def is_utf8(text: str) -> bool:
    """Returns whether text can be encoded as UTF-8; a file name may hold other bytes."""
    return text.encode(errors="replace").decode() == text


def in_one_line(error: Exception) -> str:
    """Returns the message of a library's error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def flag_error_in_words(error: Exception) -> str:
    """Returns absl's message on a wrong flag, in words where absl prints a tuple."""
    wrong_bool = r"flag (--.*): \('Non-boolean argument .*\)"
    return re.sub(wrong_bool, r"\1 is not allowed; it takes true or false", str(error))


def listed(texts: Iterable[str], separator: str = ", ", limit: int = 8) -> str:
    """Joins the first texts, and says how many more there are."""
    first = list(texts)
    more = len(first) - limit
    return separator.join(first[:limit]) + (f" and {more:,} more" if more > 0 else "")


def require_kind(name: str, value: object, kind: type) -> None:
    """Raises UserError unless a value has a type; an int passes as a float, a bool as neither.

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
    if value in allowed:
        return
    choices = [str(choice) or "''" for choice in allowed]
    close = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(f"{name}={value!r} is not known; {hint}allowed: {', '.join(choices)}")


def require_at_least(name: str, value: float, lowest: float) -> None:
    """Raises UserError unless a value is at least `lowest`."""
    require(value >= lowest, f"{name}={value} is not allowed; it must be at least {lowest}")
