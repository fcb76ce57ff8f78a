"""Checks of input and output paths, made before any work.

One rule for every output: what is there is replaced only where the user says so. Needs no
TensorFlow, so that a mistake is reported before that is imported.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import UserError, require

FOLDER = "/"  # the suffix, so to say, of a folder of pictures
PARTS = ("train", "validation", "test")  # of the run's own data, that an input may be


def path_of(text: str | Path) -> Path:
    """The path that a user means, from a home folder on where it begins with ~.

    Raises:
      UserError: nobody has such a home folder, or the system looks for no such path.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except RuntimeError as error:
        raise UserError(f"{str(text)!r} is no path: nobody has that home folder") from error
    except OSError as error:
        raise UserError(f"{str(text)!r} cannot be looked for: {error.strerror}") from error
    return path


def suffix(output: str) -> str:
    """By which the kind of an output goes: in small letters, FOLDER where there is none."""
    return FOLDER if output.endswith("/") else Path(output).suffix.lower() or FOLDER


def require_exists(source: Path) -> None:
    """Raises UserError unless there is such an input."""
    require(os.path.lexists(source), f"input={str(source)!r} is not there")


def check_stream(source: str, output: str, *, overwrite: bool) -> None:
    """Makes sure that there is an input to read, and that nothing is lost by the output.

    `source` is a file, a folder or one of PARTS; the output a file, or a folder of pictures.

    Raises:
      UserError: the input is not there; the output is, or it is part of what is read.
    """
    require(source != "", "input='' is not allowed; it must name a file or folder")
    require(output != "", "output='' is not allowed; it must name a file or folder")
    path, is_folder = path_of(output), suffix(output) == FOLDER
    require_absent(path, f"output={output!r}", overwrite=overwrite)
    if source not in PARTS:
        read, written = path_of(source).resolve(), path.resolve()
        require(
            read != written and read not in written.parents and written not in read.parents,
            f"output={output!r} and input={source!r} lie one in the other",
        )
        require_exists(path_of(source))
    if not os.path.lexists(path):
        return
    require(
        path.is_dir() == is_folder,
        f"output={output!r} is {'a folder' if path.is_dir() else 'a file'}, and is not replaced",
    )
    if path.is_dir():
        found = (file for file in path.rglob("*") if file.suffix != ".png" and not file.is_dir())
        other = next(found, None)
        require(
            other is None,
            f"output={output!r} holds more than pictures, as {str(other)!r}, and is not replaced",
        )


def check_kind(output: str, allowed: Sequence[str], what: str) -> None:
    """Raises UserError unless `what` is to be written can be written so, as the name says."""
    names = ["FOLDER/" if ending == FOLDER else ending for ending in allowed]
    require(
        suffix(output) in allowed,
        f"output={output!r} is not allowed for {what}; these go to {', '.join(names)}",
    )


def check_files(folder: str | Path, names: Sequence[str], *, overwrite: bool) -> Path:
    """The folder, in which files of these names may be written.

    Raises:
      UserError: one of them is there, or what is there is no folder.
    """
    path = path_of(folder)
    require(
        not os.path.lexists(path) or path.is_dir(),
        f"output={str(path)!r} is a file; it must name a folder",
    )
    for name in names:
        require_absent(path / name, str(path / name), overwrite=overwrite)
        require(
            not os.path.lexists(path / name) or not (path / name).is_dir(),
            f"{path / name} is a folder, and is not replaced",
        )
    return path


def check_folder(output: str, mark: str, *, overwrite: bool) -> Path:
    """The folder to make, or to replace where it holds the file that marks one of its kind.

    Raises:
      UserError: it is there, or it is no such folder.
    """
    path = path_of(output).absolute()
    require_absent(path, f"output={str(path)!r}", overwrite=overwrite)
    require(
        not os.path.lexists(path) or (path / mark).is_file(),
        f"output={str(path)!r} is no export: there is no {mark} in it; it is not replaced",
    )
    return path


def require_room(name: str, folder: Path, needed_bytes: int) -> None:
    """Raises UserError where the disk of a folder, which need not be there, has less room."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free_bytes = shutil.disk_usage(there).free
    require(
        needed_bytes <= free_bytes,
        f"{name} is not allowed: it takes {needed_bytes // 2**20:,} MiB, of which the disk of "
        f"{there} has {free_bytes // 2**20:,}",
    )


def check_picture(flag: str, output: str, *, overwrite: bool) -> None:
    """Makes sure that a PNG may be written, in a folder that is there; "": none is asked for.

    Raises:
      UserError: it is there, or has another ending or no folder.
    """
    if output == "":
        return
    path = path_of(output)
    require(suffix(output) == ".png", f"{flag}={output} is not allowed; it must end in .png")
    require_absent(path, f"{flag}={output}", overwrite=overwrite)
    require(path.parent.is_dir(), f"{flag}={output}: {path.parent} is no folder")


def require_absent(path: Path, name: str, *, overwrite: bool) -> None:
    """Raises UserError if the path exists and may not be replaced.

    `name` is what the message calls it.
    """
    require(overwrite or not os.path.lexists(path), f"{name} is there; --overwrite replaces it")
