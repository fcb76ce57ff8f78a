"""Checks input and output paths before any work and without TensorFlow.

An existing output is replaced only with --overwrite.
"""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import StorageError, UserError, require

SPLITS = ("train", "validation", "test")  # an input may name a split of the run's own data
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif"),
    *((".heic", ".heif") if importlib.util.find_spec("pillow_heif") else ()),  # the extra [heic]
)
ARRAY_SUFFIXES = (".npy", ".npz")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")  # of tables
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
OUTPUT_TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
FOLDER = "/"  # stands for the suffix of an output that is a folder of images


def path_of(text: str | Path) -> Path:
    """Returns a path whose leading ~ is expanded to the home folder.

    Raises:
      UserError: the home folder does not exist, or the file system does not allow the path.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except RuntimeError as error:
        raise UserError(f"{str(text)!r} is not a path: nobody has that home folder") from error
    except OSError as error:
        raise UserError(f"{str(text)!r} cannot be looked for: {error.strerror}") from error
    return path


def workdir_of(folder: object) -> Path:
    """Returns the path of a workdir that is given in Python.

    Raises:
      UserError: the folder is not a path, is empty, or as `path_of`.
    """
    require(
        isinstance(folder, str | Path) and folder != "",
        f"workdir={folder!r} is not allowed; it must name a folder",
    )
    return path_of(str(folder))


def suffix(output: str) -> str:
    """Returns the suffix in lower case, or FOLDER if the path has none or ends in a slash."""
    return FOLDER if output.endswith("/") else Path(output).suffix.lower() or FOLDER


def table_suffix(path: Path) -> str:
    """Returns the suffix of a table in lower case, as ".csv.gz"; "" for other files."""
    name = path.name.lower()
    return max(filter(name.endswith, TABLE_SUFFIXES), key=len, default="")


def require_exists(source: Path) -> None:
    """Raises UserError unless the input exists."""
    require(os.path.lexists(source), f"input={str(source)!r} does not exist")


def require_named(name: str, path: str) -> None:
    """Raises UserError if a path is empty."""
    require(path != "", f"{name}='' is not allowed; it must name a file or folder")


def require_absent(path: Path, name: str, *, overwrite: bool) -> None:
    """Raises UserError if the path, called `name` there, exists and may not be replaced."""
    require(overwrite or not os.path.lexists(path), f"{name} exists; --overwrite replaces it")


def require_suffix(output: str, allowed: Sequence[str], content: str) -> None:
    """Raises UserError unless the suffix of an output is allowed for its content."""
    names = ["FOLDER/" if ending == FOLDER else ending for ending in allowed]
    require(
        suffix(output) in allowed,
        f"output={output!r} is not allowed for {content}; allowed: {', '.join(names)}",
    )


def require_disk_space(name: str, folder: Path, needed_bytes: int, advice: str = "") -> None:
    """Raises StorageError if the disk of a folder, which need not exist yet, is too full."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes > free_bytes:
        raise StorageError(
            f"{name} cannot be written: the disk of {existing} has {free_bytes // 2**20:,} MiB "
            f"free and {-(-needed_bytes // 2**20):,} MiB are needed{'; ' if advice else ''}{advice}"
        )


def check_input_and_output(source: str, output: str, *, overwrite: bool) -> None:
    """Checks that the input exists and that writing the output destroys nothing.

    The input is a file, a folder or one of SPLITS; the output is a file or a folder of images.

    Raises:
      UserError: the input does not exist; the output exists and may not be replaced, or overlaps
        with the input.
    """
    for name, given in (("input", source), ("output", output)):
        require_named(name, given)
    path = path_of(output)
    require_absent(path, f"output={output!r}", overwrite=overwrite)
    if source not in SPLITS:
        read, written = path_of(source).resolve(), path.resolve()
        require(
            read != written and read not in written.parents and written not in read.parents,
            f"output={output!r} and input={source!r} overlap: one contains the other",
        )
        require_exists(path_of(source))
    if os.path.lexists(path):
        _require_replaceable(path, output)


def _require_replaceable(path: Path, output: str) -> None:
    """Raises UserError if the output would replace a file by a folder, or more than images."""
    require(
        path.is_dir() == (suffix(output) == FOLDER),
        f"output={output!r} is {'a folder' if path.is_dir() else 'a file'} and is not replaced",
    )
    if path.is_dir():
        others = (file for file in path.rglob("*") if file.suffix != ".png" and not file.is_dir())
        other = next(others, None)
        require(
            other is None,
            f"output={output!r} holds other files than images, such as {str(other)!r}, and is not "
            "replaced",
        )


def check_output_files(folder: str | Path, names: Sequence[str], *, overwrite: bool) -> Path:
    """Returns the path of the folder in which files of these names may be written.

    Raises:
      UserError: the path is a file, or one of the files exists and may not be replaced.
    """
    path = path_of(folder)
    require(
        not os.path.lexists(path) or path.is_dir(),
        f"output={str(path)!r} is a file; it must name a folder",
    )
    for name in names:
        require_absent(path / name, str(path / name), overwrite=overwrite)
        require(not (path / name).is_dir(), f"{path / name} is a folder and is not replaced")
    return path


def check_output_folder(output: str, marker: str, *, overwrite: bool) -> Path:
    """Returns the absolute path of a folder to make, or to replace if it holds the marker file.

    Raises:
      UserError: the folder exists and may not be replaced, or does not hold the marker.
    """
    require(output != "", "output='' is not allowed; it must name a folder")
    path = path_of(output).absolute()
    require_absent(path, f"output={str(path)!r}", overwrite=overwrite)
    require(
        not os.path.lexists(path) or (path / marker).is_file(),
        f"output={str(path)!r} is not an export: it holds no {marker}; it is not replaced",
    )
    return path


def check_output_image(flag: str, output: str, *, overwrite: bool) -> None:
    """Checks that a PNG may be written in an existing folder; accepts an empty path, for no PNG.

    Raises:
      UserError: the file exists and may not be replaced, has another suffix, or has no folder.
    """
    if output == "":
        return
    path = path_of(output)
    require(suffix(output) == ".png", f"{flag}={output} is not allowed; it must end in .png")
    require_absent(path, f"{flag}={output}", overwrite=overwrite)
    require(path.parent.is_dir(), f"{flag}={output}: {path.parent} is not a folder")
