"""What a trained model is handed, read as a stream: pictures, arrays and tables of any length."""

import contextlib
import dataclasses
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from PIL import Image, ImageOps

from trainer import data
from trainer.errors import UserError, require

PARTS = ("train", "validation", "test")
PICTURES = (".jpeg", ".jpg", ".png")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of pictures, as Pillow calls them, by their channels
ARRAYS = (".npy", ".npz")
TABLES = (".csv", ".parquet", ".tsv")

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_CODE = "code_"  # how the columns of codes in a table begin
_NUMBERS = {"vectors": "numbers", "codes": "codes"}  # what the columns of a table hold
_BUFFER_BYTES = 2**20  # of each column of a Parquet file
_LABEL_KINDS = "biufU"  # of NumPy's types: numbers or text
_ASIDE = ("labels", "files", "errors")  # arrays that go along with the examples


class Block(NamedTuple):
    """Some examples in their order."""

    rows: np.ndarray  # [B, H, W, C], uint8 or float32 in [0, 1]; vectors and codes float32 [B, D]
    labels: np.ndarray | None = None  # [B], numbers or text
    files: np.ndarray | None = None  # [B], their names inside the folder that is read


@dataclasses.dataclass(frozen=True)
class Input:
    """Examples that are read a block at a time."""

    count: int | None  # None where it is known at the end alone
    blocks: Callable[[int], Iterator[Block]]  # of so many rows at most
    standardised: bool = False  # are vectors as the model sees them, no longer in the user's units


@dataclasses.dataclass(frozen=True)
class _Expected:
    """What each example has to be for the model."""

    shape: tuple[int, ...]
    what: str  # "images", "vectors" or "codes"

    def __str__(self) -> str:
        return f"{self.what} of {_times(self.shape)}"


def of_part(dataset: data.Dataset, name: str) -> Input:
    """A part of the run's own data, by its name in PARTS."""
    part: data.Images = getattr(dataset, name)

    def blocks(size: int) -> Iterator[Block]:
        for start in range(0, len(part), size):
            some = slice(start, start + size)
            labels = None if part.labels is None else part.labels[some]
            yield Block(part.images[some], labels)

    return Input(len(part), blocks, standardised=dataset.scaling is not None)


def examples(
    path: Path,
    image_shape: tuple[int, ...],
    *,
    array: str = "",
    label_column: str = "",
    resize: bool = False,
) -> Input:
    """Images or vectors for a model of this shape, (H, W, C) or (D,).

    Of pictures: one, or those of a folder and its folders, by their names; each in the model's
    channels and, with `resize`, its size. Of an .npy or .npz file: the one array, or that named
    `array`. Of a table: a vector of each row, its columns in their order but for `label_column`.

    Raises:
      UserError: here or on the way, the input is not there, cannot be read, or does not fit.
    """
    expected = _Expected(image_shape, "vectors" if len(image_shape) == 1 else "images")
    suffix = path.suffix.lower()
    _require_there(path)
    of_pictures = path.is_dir() or suffix in PICTURES
    require(
        of_pictures or suffix in (*ARRAYS, *TABLES),
        f"input={str(path)!r} is not known; allowed: {', '.join(PARTS)}, a folder of pictures, or "
        f"a file that ends in {', '.join((*PICTURES, *ARRAYS, *TABLES))}",
    )
    require(not array or suffix == ".npz", f"array={array!r} is of .npz files, not of {path}")
    require(
        not label_column or (suffix in TABLES and not of_pictures),
        f"label_column={label_column!r} is of tables, not of {path}",
    )
    require(
        not resize or of_pictures,
        f"resize is of pictures; {path} keeps the shape that it has",
    )
    if of_pictures:
        return _pictures(path, expected, resize)
    if suffix in ARRAYS:
        return _arrays(path, expected, array)
    require(expected.what == "vectors", f"{path} is a table, but the model takes {expected}")
    return _table(path, expected, label_column)


def codes(path: Path, code_size: int, *, array: str = "") -> Input:
    """Codes [., K] of a model, as `encode` writes them: arrays, or tables with code_0 and so on.

    Raises:
      UserError: as `examples`.
    """
    expected = _Expected((code_size,), "codes")
    suffix = path.suffix.lower()
    _require_there(path)
    require(
        suffix in (*ARRAYS, *TABLES) and not path.is_dir(),
        f"input={str(path)!r} is not known; allowed: a file of codes that ends in "
        f"{', '.join((*ARRAYS, *TABLES))}",
    )
    require(not array or suffix == ".npz", f"array={array!r} is of .npz files, not of {path}")
    return _arrays(path, expected, array) if suffix in ARRAYS else _table(path, expected, "")


def _require_there(path: Path) -> None:
    require(path.exists(), f"input={str(path)!r} is not there")


def _pictures(path: Path, expected: _Expected, resize: bool) -> Input:
    require(expected.what == "images", f"{path} holds pictures, but the model takes {expected}")
    channels = expected.shape[-1]
    require(
        channels in MODES,
        f"the model takes images of {channels} channels; pictures have "
        f"{', '.join(map(str, MODES))}",
    )
    folder = path if path.is_dir() else path.parent
    found = sorted(_found(path)) if path.is_dir() else [path]
    require(len(found) > 0, f"{path} holds no picture that ends in {', '.join(PICTURES)}")
    files = np.array([file.relative_to(folder).as_posix() for file in found])

    def blocks(size: int) -> Iterator[Block]:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(files), size):
                names = files[start : start + size]
                read = pool.map(lambda name: _picture(folder / name, expected, resize), names)
                yield Block(np.stack(list(read)), files=names)

    return Input(len(files), blocks)


def _found(folder: Path) -> Iterator[Path]:
    """The pictures in a folder and its folders; what is hidden is passed by."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in PICTURES and path.is_file() and not hidden:
            yield path


def _picture(path: Path, expected: _Expected, resize: bool) -> np.ndarray:
    """One picture, uint8 [H, W, C], upright."""
    height, width, channels = expected.shape
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as opened:
            deep = opened.mode[0] in "IF"
            picture = ImageOps.exif_transpose(opened).convert(MODES[channels])
    except Exception as error:  # a damaged picture fails in any way
        raise UserError(f"{path} cannot be read as a picture ({_line(error)})") from error
    require(not deep, f"{path} has more than 8 bits a channel; only 8 are taken")
    if resize:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    require(
        picture.size == (width, height),
        f"{path} is {picture.height}x{picture.width} pixels, but the model takes {height}x{width}; "
        "--resize scales pictures",
    )
    return np.asarray(picture).reshape(expected.shape)


def _arrays(path: Path, expected: _Expected, chosen: str) -> Input:
    """The rows of an .npy file, or of an array in an .npz file with its labels and file names."""
    with _readable(path):
        if path.suffix.lower() == ".npy":
            members = {"": _Member(path)}
        else:
            with zipfile.ZipFile(path) as archive:
                stored = [Path(name) for name in archive.namelist() if name.endswith(".npy")]
            members = {file.stem: _Member(path, file.stem) for file in stored}
    name = _chosen(list(members), expected, chosen, path)
    rows = members[name]
    said = f"{name!r} in {path}" if name else str(path)
    _check_array(rows, expected, said)
    labels = members.get(f"{name}_labels") or members.get("labels")
    files = members.get("files")
    for column in (labels, files):
        require(
            column is None
            or (column.shape == rows.shape[:1] and column.dtype.kind in _LABEL_KINDS),
            f"{path} has {rows.shape[0]} rows, but not as many labels or file names of numbers or "
            "text",
        )

    def blocks(size: int) -> Iterator[Block]:
        along = [None if column is None else column.blocks(size) for column in (labels, files)]
        first_row = 0
        for some in rows.blocks(size):
            block = _as_float(some, expected)
            if block.dtype != np.uint8:
                _require_finite(block, first_row, None, said)
                if expected.what == "images":
                    _require_unit(block, said)
            yield Block(
                block.reshape(-1, *expected.shape),
                *(None if column is None else next(column) for column in along),
            )
            first_row += len(some)

    return Input(rows.shape[0], blocks)


class _Member:
    """An array in a file of NumPy's, alone or one of many, read from its beginning to its end."""

    def __init__(self, path: Path, name: str = ""):
        self._path = path
        self._name = name
        with self._opened() as file:
            self.shape, self._by_columns, self.dtype = _header(file)

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Its rows, so many at a time."""
        count, *row_shape = self.shape
        row_bytes = self.dtype.itemsize * int(np.prod(row_shape, dtype=int))
        native = self.dtype.newbyteorder("=")
        with _readable(self._path), self._opened() as file:
            if self._by_columns and row_shape:  # its rows lie nowhere together
                whole = np.lib.format.read_array(file, allow_pickle=False)
                yield from (whole[start : start + size] for start in range(0, count, size))
                return
            _header(file)
            for start in range(0, count, size):
                some = min(size, count - start)
                read = file.read(some * row_bytes)
                if len(read) < some * row_bytes:
                    raise EOFError("it ends too early")
                yield np.frombuffer(read, self.dtype).reshape(some, *row_shape).astype(native)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if not self._name:
            with self._path.open("rb") as file:
                yield file
        else:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{self._name}.npy") as file:
                yield file


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index runs fastest, and type of the array that follows."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"it is of version {version}")
    if header[2].hasobject:
        raise ValueError("it holds Python objects")
    return header


def _chosen(names: list[str], expected: _Expected, chosen: str, path: Path) -> str:
    """The array that holds the examples."""
    listed = ", ".join(map(repr, names)) or "nothing"
    if chosen:
        require(chosen in names, f"{path} has no array {chosen!r}; it holds {listed}")
        return chosen
    if expected.what == "codes" and "codes" in names:
        return "codes"
    candidates = [name for name in names if name not in _ASIDE and not name.endswith("_labels")]
    require(len(candidates) == 1, f"{path} holds {listed}; --array says which to take")
    return candidates[0]


def _check_array(rows: _Member, expected: _Expected, said: str) -> None:
    dtype, shape = rows.dtype, rows.shape
    kinds = "biuf" if len(expected.shape) == 1 else "bf"
    require(
        dtype.kind in kinds or dtype == np.uint8,
        f"{said} is of type {dtype}; {expected.what} must be "
        + ("real numbers" if len(expected.shape) == 1 else "uint8, or floats in [0, 1]"),
    )
    grey = len(expected.shape) == 3 and expected.shape[-1] == 1
    require(
        shape[1:] == expected.shape or (grey and shape[1:] == expected.shape[:-1]),
        f"{said} has the shape {shape}, but the model takes {expected}",
    )
    require(shape[0] > 0, f"{said} has the shape {shape}, in which there is no example")


def _as_float(rows: np.ndarray, expected: _Expected) -> np.ndarray:
    """Float32, but images of bytes as they are."""
    if len(expected.shape) > 1 and rows.dtype == np.uint8:
        return rows
    with np.errstate(over="ignore"):  # what is too large for float32 is told
        return rows.astype(np.float32)


def _require_unit(rows: np.ndarray, said: str) -> None:
    lowest, highest = rows.min(), rows.max()
    require(
        bool(lowest >= 0 and highest <= 1),
        f"the images {said} reach from {lowest:g} to {highest:g}; floats must lie in [0, 1]",
    )


def _require_finite(
    rows: np.ndarray, first_row: int, columns: Sequence[str] | None, said: str
) -> None:
    """Raises UserError with the first number that is none, its row and column."""
    broken = np.argwhere(~np.isfinite(rows))
    if len(broken):
        row, *rest = broken[0].tolist()
        column = repr(columns[rest[0]]) if columns else rest[0] if len(rest) == 1 else tuple(rest)
        raise UserError(
            f"{said} holds {rows[row, *rest]} in row {first_row + row}, column {column}, counted "
            "from 0; only finite numbers of float32 are taken"
        )


def _table(path: Path, expected: _Expected, label_column: str) -> Input:
    """The rows of a table, as vectors of its columns in their order, or as codes."""
    with _readable(path):
        names = _columns(path)
    require(
        not label_column or label_column in names,
        f"{path} has no column {label_column!r}; it has {', '.join(map(repr, names))}",
    )
    repeated = sorted({name for name in names if names.count(name) > 1})
    require(not repeated, f"{path} has several columns {', '.join(map(repr, repeated))}")
    if expected.what == "codes":
        numbers = [name for name in names if name.startswith(_CODE)]
        label, file = ("label" if "label" in names else ""), ("file" if "file" in names else "")
    else:
        numbers, label, file = [name for name in names if name != label_column], label_column, ""
    aside = label or expected.what == "codes"
    hint = "" if aside else "; --label_column names one that is no feature"
    require(
        len(numbers) == expected.shape[0],
        f"{path} has {len(numbers)} columns of {_NUMBERS[expected.what]}, but the model takes "
        f"{expected}{hint}",
    )

    def blocks(size: int) -> Iterator[Block]:
        first_row = 0
        with _readable(path):
            for batch in _record_batches(path, numbers, label, file, size):
                for start in range(0, len(batch), size):
                    some = batch.slice(start, size)
                    rows = _matrix(some, numbers, path)
                    _require_finite(rows, first_row, numbers, str(path))
                    along = (_along(some, name, first_row, path) for name in (label, file))
                    yield Block(rows, *along)
                    first_row += len(some)
        require(first_row > 0, f"{path} has no rows")

    return Input(_count(path), blocks)


def _columns(path: Path) -> list[str]:
    """The names of a table's columns."""
    if path.suffix.lower() == ".parquet":
        with _open_parquet(path) as table:
            return table.schema_arrow.names
    with _open_csv(path) as reader:
        names = reader.schema.names
    counted = [str(number) for number in range(len(names))]  # as pandas calls columns without names
    require(
        names == counted or not all(map(_is_number, names)),
        f"the first line of {path} is of numbers; it must name the columns",
    )
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _count(path: Path) -> int | None:
    """The rows of a table, where it says so."""
    if path.suffix.lower() != ".parquet":
        return None
    with _open_parquet(path) as table:
        return table.metadata.num_rows


def _record_batches(
    path: Path, numbers: list[str], label: str, file: str, size: int
) -> Iterator[pa.RecordBatch]:
    """The named columns of a table, a stretch of its rows at a time."""
    names = [name for name in (*numbers, label, file) if name]
    if path.suffix.lower() == ".parquet":
        with _open_parquet(path) as table:
            yield from table.iter_batches(size, columns=names)
    else:
        types = dict.fromkeys(numbers, pa.float64()) | ({file: pa.string()} if file else {})
        with _open_csv(path, column_types=types, include_columns=names) as reader:
            yield from reader


def _open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    # By default each row group that is read stays in memory until the file is closed.
    return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _open_csv(path: Path, **conversion: Any) -> pyarrow.csv.CSVStreamingReader:
    return pyarrow.csv.open_csv(
        path,
        pyarrow.csv.ReadOptions(use_threads=False),  # with threads, errors tell no row
        pyarrow.csv.ParseOptions(delimiter=_DELIMITERS[path.suffix.lower()]),
        pyarrow.csv.ConvertOptions(**conversion),
    )


def _matrix(batch: pa.RecordBatch, names: list[str], path: Path) -> np.ndarray:
    """Columns of numbers, float32 [B, D]; what is missing is NaN."""
    rows = np.empty((len(batch), len(names)), np.float32)
    for k, name in enumerate(names):
        column = batch.column(name)
        of_numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
        require(
            any(is_one(column.type) for is_one in of_numbers),
            f"the column {name!r} of {path} is of type {column.type}; only numbers are taken",
        )
        with np.errstate(over="ignore"):  # what is too large for float32 is told
            rows[:, k] = column.to_numpy(zero_copy_only=False)
    return rows


def _along(batch: pa.RecordBatch, name: str, first_row: int, path: Path) -> np.ndarray | None:
    """A column of labels or names, numbers or text."""
    if not name:
        return None
    column = batch.column(name)
    if column.null_count:
        row = first_row + column.is_null().to_pylist().index(True)
        raise UserError(f"{path} holds nothing in row {row}, column {name!r}, counted from 0")
    taken = column.to_numpy(zero_copy_only=False)
    taken = taken.astype(str) if taken.dtype.hasobject else taken
    require(
        taken.dtype.kind in _LABEL_KINDS,
        f"the column {name!r} of {path} is of type {column.type}; labels are numbers or text",
    )
    return taken


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what a reader raises into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or _line(error)}") from error
    except (
        *(ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, MemoryError),
        *(SyntaxError, tokenize.TokenError, TypeError, OverflowError),  # of a damaged header
        *(pa.ArrowException, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise UserError(f"{path} cannot be read ({_line(error)})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
