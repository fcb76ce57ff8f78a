"""Opens the arrays of .npy and .npz files, to read them block by block."""

import contextlib
import dataclasses
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from trainer.data.memory import require_fits
from trainer.errors import UserError, in_one_line, require

_NPY = b"\x93NUMPY"  # the first bytes of an .npy file
# Errors of reading a damaged .npy or .npz file, besides OSError.
_DAMAGE_ERRORS = (
    *(ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, MemoryError),
    *(SyntaxError, tokenize.TokenError, TypeError, OverflowError),  # by a damaged header
    *(zipfile.BadZipFile, zlib.error),
)


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """Describes an array of an .npy or .npz file by its header; `blocks` reads the rows."""

    path: Path
    name: str  # in the .npz file; "" of an .npy file
    shape: tuple[int, ...]
    dtype: np.dtype
    by_columns: bool  # Fortran order: the rows are not contiguous

    def __str__(self) -> str:
        return f"{self.name!r} in {self.path}" if self.name else str(self.path)

    @property
    def nbytes(self) -> int:
        """Returns the size of the array in memory."""
        return self.dtype.itemsize * math.prod(self.shape)

    def blocks(self, size: int, allowed_bytes: float) -> Iterator[np.ndarray]:
        """Yields `size` rows at a time, in the machine's byte order.

        An array stored by columns in an .npz file must fit the allowed bytes as a whole.

        Raises:
          UserError: the array cannot be read.
        """
        native = self.dtype.newbyteorder("=")
        with _readable(self.path, str(self)):
            for rows in self._raw_blocks(size, allowed_bytes):
                yield rows.astype(native, copy=False)

    def _raw_blocks(self, size: int, allowed_bytes: float) -> Iterator[np.ndarray]:
        count, *row_shape = self.shape
        starts = range(0, count, size)
        with _opened(self.path, self.name) as file:
            if self.by_columns and row_shape:
                whole = self._whole(file, allowed_bytes)
                yield from (whole[start : start + size] for start in starts)
                return
            _read_header(file)
            row_bytes = self.dtype.itemsize * math.prod(row_shape)
            for start in starts:
                rows = min(size, count - start)
                content = file.read(rows * row_bytes)
                if len(content) < rows * row_bytes:
                    raise EOFError("it ends too early")
                yield np.frombuffer(content, self.dtype).reshape(rows, *row_shape)

    def _whole(self, file: IO[bytes], allowed_bytes: float) -> np.ndarray:
        if not self.name:
            return np.load(self.path, mmap_mode="r", allow_pickle=False)
        advice = "numpy.ascontiguousarray stores it by rows, which are read a block at a time"
        require_fits(f"{self}, stored by columns,", self.nbytes, allowed_bytes, advice)
        return np.lib.format.read_array(file, allow_pickle=False)


def open_arrays(path: Path) -> dict[str, StoredArray]:
    """Returns the arrays of an .npz file by their names, or the array of an .npy file as "".

    Raises:
      UserError: the file cannot be read, or one of its arrays holds Python objects.
    """
    with _readable(path, str(path)):
        with path.open("rb") as file:
            if file.read(len(_NPY)) == _NPY:
                return {"": _open(path, "", path.stat().st_size)}
            require(
                zipfile.is_zipfile(file),
                f"{path} is not an .npz or .npy file, as numpy.savez and numpy.save write them",
            )
        with zipfile.ZipFile(path) as archive:
            sizes = {
                member.filename.removesuffix(".npy"): member.file_size
                for member in archive.infolist()
                if member.filename.endswith(".npy")
            }
        return {name: _open(path, name, size) for name, size in sizes.items()}


def check_examples(stored: StoredArray, *, images: bool) -> None:
    """Raises UserError unless an array is non-empty and of a type for images or vectors."""
    kind, count = stored.dtype.kind, math.prod(stored.shape)
    require(
        kind in "biuf",
        f"{stored} is of type {stored.dtype}; "
        + (
            "images are integers from 0 to 255, or floats in [0, 1]"
            if images
            else "vectors are real numbers"
        ),
    )
    require(count > 0, f"{stored} has the shape {stored.shape}: there is no number in it")


def example_blocks(
    stored: StoredArray, size: int, allowed_bytes: float, *, images: bool
) -> Iterator[np.ndarray]:
    """Yields `size` examples at a time: images of integers as uint8, anything else as float32.

    Raises:
      UserError: a number is not finite in float32, or a pixel is out of its range: 0 to 255 for
        integers, [0, 1] for floats.
    """
    first_row = 0
    rows: Any
    for rows in stored.blocks(size, allowed_bytes):
        if images and rows.dtype == np.uint8:  # any byte is a pixel
            yield rows
            first_row += len(rows)
            continue
        is_integer = images and rows.dtype.kind in "iu"
        with np.errstate(over="ignore"):  # numbers too large for float32 become infinite
            converted: Any = rows.astype(np.uint8 if is_integer else np.float32, copy=False)
        if is_integer:
            right, allowed = converted == rows, "integers from 0 to 255"
        elif images:
            right, allowed = (converted >= 0) & (converted <= 1), "numbers in [0, 1]"
        else:
            right, allowed = np.isfinite(converted), "finite numbers of float32"
        if not right.all():
            row, *rest = np.argwhere(~right)[0].tolist()
            column = rest[0] if len(rest) == 1 else tuple(rest)
            raise UserError(
                f"{stored} holds {rows[row, *rest]} in row {first_row + row}, column {column}, "
                f"counted from 0; only {allowed} are allowed"
            )
        yield converted
        first_row += len(rows)


def _open(path: Path, name: str, stored_bytes: int) -> StoredArray:
    display_name = f"{name!r} in {path}" if name else str(path)
    with _readable(path, display_name), _opened(path, name) as file:
        shape, by_columns, dtype = _read_header(file)
        array = StoredArray(path, name, shape, dtype, by_columns)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        if array.nbytes > stored_bytes:
            raise ValueError(f"it ends too early for its shape {shape}")
    return array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads a header: the shape of the array, whether it is in Fortran order, and its type."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"it is of version {version}")


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    if not name:
        with path.open("rb") as file:
            yield file
    else:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            yield member


@contextlib.contextmanager
def _readable(path: Path, display_name: str) -> Iterator[None]:
    """Turns the errors of a missing or damaged file into UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or in_one_line(error)}") from error
    except _DAMAGE_ERRORS as error:
        raise UserError(
            f"{display_name} cannot be read as an array of numbers ({in_one_line(error)})"
        ) from error


def write_header(file: BinaryIO, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    """Writes the header of an .npy file, whose size does not depend on the number of rows."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
