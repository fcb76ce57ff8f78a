"""A user's own arrays, of an .npz or .npy file; whatever is wrong with them is told in one line."""

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from trainer.errors import UserError, in_one_line, require
from trainer.storage import paths

SUFFIXES = paths.ARRAY_SUFFIXES
_NAMES = ("train", "test", "train_labels", "test_labels")
_SHAPES = "vectors are [N, D], images [N, H, W] or [N, H, W, C]"
_NPY = b"\x93NUMPY"  # that such a file begins with
_ROWS = 4096  # looked through at a time
_GIB = 2**30
# What reading a damaged .npy or .npz file raises, but for OSError.
DAMAGE_ERRORS = (
    *(ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, MemoryError),
    *(SyntaxError, tokenize.TokenError, TypeError, OverflowError),  # of a damaged header
    *(zipfile.BadZipFile, zlib.error),
)


def read(path: Path, most_bytes: float) -> dict[str, np.ndarray]:
    """The arrays of a file by their names: `train` and, of the three others, those that it holds.

    The one array of an .npy file is `train`.

    `train` [N, ...] and `test` [M, ...] are vectors, float32 [., D], whatever numbers they were of;
    or images [., H, W, C], uint8, or float32 in [0, 1]. `train_labels` and `test_labels` are int64
    [N] and [M].

    Raises:
      UserError: the file cannot be read, holds more than `most_bytes`, or arrays that do not serve.
    """
    arrays = _members(path, most_bytes)
    require(
        "train" in arrays,
        f"{path} has no array 'train'; it holds {', '.join(map(repr, arrays)) or 'nothing'}",
    )
    unknown = [name for name in arrays if name not in _NAMES]
    require(
        not unknown,
        f"{path} holds {', '.join(map(repr, unknown))}, but only {', '.join(_NAMES)} are known",
    )
    checked: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        labels = f"{part}_labels"
        if part in arrays:
            checked[part] = _examples(part, arrays[part], path)
        if labels in arrays:
            require(part in arrays, f"{path} holds {labels!r} without {part!r}")
            checked[labels] = _labels(labels, arrays[labels], len(checked[part]), path)
    if "test" in checked:
        ours, theirs = (checked[part].shape[1:] for part in ("train", "test"))
        require(
            ours == theirs,
            f"'test' in {path} has rows of {_times(theirs)} numbers, where 'train' has "
            f"{_times(ours)}",
        )
    return checked


def _members(path: Path, most_bytes: float) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            if file.read(len(_NPY)) == _NPY:
                return {"train": _single(path, most_bytes)}
            require(
                zipfile.is_zipfile(file),
                f"{path} is no .npz or .npy file, as numpy.savez and numpy.save write them",
            )
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            _require_room(path, size, most_bytes)
            file.seek(0)
            with np.load(file, allow_pickle=False) as members:
                return {name: _member(members, name, path) for name in members.files}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except DAMAGE_ERRORS as error:
        raise UserError(
            f"{path} is no .npz file that can be read ({in_one_line(error)})"
        ) from error


def _single(path: Path, most_bytes: float) -> np.ndarray:
    size = path.stat().st_size
    _require_room(path, size, most_bytes)
    try:
        with path.open("rb") as file:
            _require_whole(file, size)
        return np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged header fails in any way
        raise UserError(
            f"{path} cannot be read as an array of numbers ({in_one_line(error)})"
        ) from error


def header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index runs fastest, and type of the array that follows.

    Raises:
      ValueError: it is of a version that is not read, or holds Python objects.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"it is of version {version}")
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, by_columns, dtype


def _require_whole(file: IO[bytes], size: int) -> None:
    """Raises ValueError if the array of a file of so many bytes claims to have more."""
    shape, _, dtype = header(file)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"it ends too early for its shape {shape}")


def _require_room(path: Path, size: int, most_bytes: float) -> None:
    require(
        size <= most_bytes,
        f"{path} holds {size / _GIB:.1f} GiB, of {most_bytes / _GIB:.1f} GiB of memory",
    )


def _member(members, name: str, path: Path) -> np.ndarray:
    try:
        if f"{name}.npy" in members.zip.namelist():
            with members.zip.open(f"{name}.npy") as file:
                _require_whole(file, members.zip.getinfo(f"{name}.npy").file_size)
        array = members[name]
    except Exception as error:  # a damaged header fails in any way
        raise UserError(
            f"{name!r} in {path} cannot be read as an array of numbers ({in_one_line(error)})"
        ) from error
    require(isinstance(array, np.ndarray), f"{name!r} in {path} is no array")
    return array


def _examples(name: str, array: np.ndarray, path: Path) -> np.ndarray:
    """Vectors or images, as they are trained on."""
    of_images = array.ndim > 2
    require(
        array.dtype.kind in "biuf",
        f"{name!r} in {path} is of type {array.dtype}; only real numbers are taken",
    )
    require(
        array.ndim in (2, 3, 4),
        f"{name!r} in {path} has the shape {array.shape}; {_SHAPES}",
    )
    require(
        array.size > 0,
        f"{name!r} in {path} has the shape {array.shape}, in which there is no number",
    )
    require(
        not of_images or array.dtype == np.uint8 or array.dtype.kind in "bf",
        f"the images {name!r} in {path} are {array.dtype}; they must be uint8, or floats in [0, 1]",
    )
    if of_images and array.dtype == np.uint8:
        return array if array.ndim == 4 else array[..., np.newaxis]
    with np.errstate(over="ignore"):  # what is too large for float32 is told below
        taken = array.astype(np.float32)
    for start in range(0, len(taken), _ROWS):
        block = slice(start, start + _ROWS)
        require_finite(taken[block], array[block], start, f"{name!r} in {path}")
    require(
        not of_images or (taken.min() >= 0 and taken.max() <= 1),
        f"the images {name!r} in {path} reach from {taken.min():g} to {taken.max():g}; "
        "floats must lie in [0, 1]",
    )
    return taken[..., np.newaxis] if array.ndim == 3 else taken


def require_finite(taken: np.ndarray, given: np.ndarray, first_row: int, said: str) -> None:
    """Raises UserError if numbers, `taken` as float32, are not finite: the first, as it is given.

    Its row is counted from `first_row`.
    """
    broken = np.argwhere(~np.isfinite(taken))
    if len(broken):
        row, *rest = broken[0].tolist()
        column = rest[0] if len(rest) == 1 else tuple(rest)
        raise UserError(
            f"{said} holds {given[row, *rest]} in row {first_row + row}, column {column}, counted "
            "from 0; only finite numbers of float32 are taken"
        )


def _labels(name: str, array: np.ndarray, count: int, path: Path) -> np.ndarray:
    require(
        array.shape == (count,) and array.dtype.kind in "iu",
        f"{name!r} in {path} must be {count} integers [{count}], one for each row, "
        f"but is {array.dtype} {list(array.shape)}",
    )
    require(
        name != "train_labels" or len(np.unique(array)) > 1,
        f"{name!r} in {path} are all {array[0]}; there is nothing to tell apart",
    )
    return array.astype(np.int64)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
