"""Reads examples and codes from images, arrays and tables of any length, block by block."""

import contextlib
import dataclasses
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa

from trainer import data
from trainer.data.examples import Images, allowed_bytes
from trainer.data.files import images, numpy_files, tables
from trainer.errors import UserError, in_one_line, require
from trainer.serving.options import DEFAULTS, StreamOptions, describe
from trainer.storage import paths

_CODE_PREFIX = "code_"  # of a table's columns of codes
_LABEL_KINDS = "biufU"  # NumPy's kinds of types for numbers and text
_CHARACTER_BYTES = 4  # of NumPy's text
_GIB = 2**30
_OTHER_ARRAYS = ("labels", "files", "errors")  # of an .npz file, that are no examples


class Block(NamedTuple):
    """Some consecutive rows of an input."""

    rows: np.ndarray  # images [B, H, W, C], uint8 or float32 in [0, 1]; else float32 [B, D]
    labels: np.ndarray | None = None  # [B], numbers or text
    files: np.ndarray | None = None  # str [B], names inside the folder that is read


@dataclasses.dataclass(frozen=True)
class Input:
    """Rows that are read block by block."""

    count: int | None  # None: not known before the end
    blocks: Callable[[int], Iterator[Block]]  # takes the largest number of rows of a block
    is_standardised: bool = False  # the vectors are the model's inputs, not in the user's units


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """How the training turned its files into examples, before any standardisation."""

    shape: tuple[int, ...]  # (H, W, C) or (D,)
    fit: str = "stretch"  # how images became squares
    feature_names: tuple[str, ...] = ()  # of a table's columns, in the model's order
    label_column: str = ""
    drop_columns: tuple[str, ...] = ()
    fill: np.ndarray | None = None  # float64 [D], replaces a table's missing numbers


@dataclasses.dataclass(frozen=True)
class _Expected:
    """What every row must be for the model."""

    shape: tuple[int, ...]
    content: str  # "images", "vectors" or "codes"

    def __str__(self) -> str:
        return describe(self.shape, self.content)


def split(dataset: data.Dataset, name: str) -> Input:
    """Returns a split of the run's own data, by its name in `paths.SPLITS`."""
    examples: Images = getattr(dataset, name)

    def blocks(size: int) -> Iterator[Block]:
        for start in range(0, len(examples), size):
            chosen = slice(start, start + size)
            labels = None if examples.labels is None else examples.labels[chosen]
            names = examples.file_names
            files = None if names is None else names[chosen].astype(str)
            yield Block(examples.images[chosen], labels, files)

    return Input(len(examples), blocks, is_standardised=dataset.scaling is not None)


def examples(path: Path, training: TrainingData, options: StreamOptions = DEFAULTS) -> Input:
    """Opens images or vectors, to be read as the training read its own.

    Takes one image file, or all of a folder and its subfolders in the order of their names; an
    array of an .npy or .npz file; or a table, of which each row is a vector: of the columns that
    the training had, in any order, or of all columns if it had no table. The labels of a table are
    those of `options.label_column`, or of the training's.

    Raises:
      UserError: now or while reading, the input cannot be read or does not fit the model.
    """
    shape = training.shape
    if path.is_dir() or images.is_image(path.name):
        return _images(path, shape, training.fit, options)
    if path.suffix.lower() in paths.TABLE_SUFFIXES:
        return _table_of_vectors(path, training, options.label_column)
    return _arrays(path, _Expected(shape, "vectors" if len(shape) == 1 else "images"), options)


def codes(path: Path, code_size: int, options: StreamOptions = DEFAULTS) -> Input:
    """Opens codes [N, K] as `encode` writes them: an array, or columns code_0 and so on.

    Raises:
      UserError: as `examples`.
    """
    if path.suffix.lower() in paths.TABLE_SUFFIXES:
        return _table_of_codes(path, code_size)
    return _arrays(path, _Expected((code_size,), "codes"), options)


def _images(path: Path, shape: tuple[int, ...], fit: str, options: StreamOptions) -> Input:
    height, width, channels = shape
    folder = path if path.is_dir() else path.parent
    files = images.names(path) if path.is_dir() else [path.name]
    suffixes = ", ".join(paths.IMAGE_SUFFIXES)
    require(len(files) > 0, f"{path} holds no image that ends in {suffixes}")
    decoder = images.Decoder(channels=channels)
    if options.resize:
        decoder = images.Decoder((height, width), channels, fit)

    def blocks(size: int) -> Iterator[Block]:
        decoded = images.decoded(folder, files, decoder)
        for start in range(0, len(files), size):
            names = files[start : start + size]
            rows = np.empty((len(names), *shape), np.uint8)
            for name, row, image in zip(names, rows, decoded, strict=False):
                require(
                    image.shape == shape,
                    f"{folder / name} is {image.shape[0]}x{image.shape[1]} pixels, but the model "
                    f"takes {height}x{width}; --resize scales images",
                )
                row[:] = image
            yield Block(rows, files=np.array(names))

    return Input(len(files), blocks)


def _arrays(path: Path, expected: _Expected, options: StreamOptions) -> Input:
    """Opens the array of an .npy file, or one of an .npz file with its labels and file names."""
    with _readable(path):
        arrays = _open_arrays(path)
    name = _choose(list(arrays), expected, options.array, path)
    rows, title = arrays[name], f"{name!r} in {path}" if name else str(path)
    _check_array(rows, expected, title)
    labels = arrays.get(f"{name}_labels") or arrays.get("labels")
    columns = [labels, arrays.get("files")]
    for column in columns:
        require(
            column is None
            or (
                column.shape == rows.shape[:1]
                and column.dtype.kind in _LABEL_KINDS
                and column.dtype.itemsize <= _CHARACTER_BYTES * tables.LONGEST_TEXT
            ),
            f"{path} has {rows.shape[0]} rows; labels and file names must be as many numbers or "
            f"texts of at most {tables.LONGEST_TEXT:,} characters",
        )

    def blocks(size: int) -> Iterator[Block]:
        others = [None if column is None else column.blocks(size) for column in columns]
        first_row = 0
        for given in rows.blocks(size):
            block = _as_inputs(given, expected, first_row, title)
            yield Block(
                block.reshape(-1, *expected.shape),
                *(None if column is None else next(column) for column in others),
            )
            first_row += len(given)

    return Input(rows.shape[0], blocks)


class _ArrayFile:
    """An array in an .npy file, or in a member of an .npz file, read from its begin to its end."""

    def __init__(self, path: Path, name: str = ""):
        self._path = path
        self._name = name  # "" of an .npy file
        with self._open() as file:
            self.shape, self._is_fortran, self.dtype = numpy_files.header(file)

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yields the rows, `size` at a time, in the machine's byte order."""
        count, *row_shape = self.shape
        row_bytes = self.dtype.itemsize * math.prod(row_shape)
        native = self.dtype.newbyteorder("=")
        with _readable(self._path), self._open() as file:
            if self._is_fortran and row_shape:  # the numbers of a row are far apart
                whole = self._read_whole(file)
                yield from (whole[start : start + size] for start in range(0, count, size))
                return
            numpy_files.header(file)
            for start in range(0, count, size):
                rows = min(size, count - start)
                content = file.read(rows * row_bytes)
                if len(content) < rows * row_bytes:
                    raise EOFError("it ends too early")
                yield np.frombuffer(content, self.dtype).reshape(rows, *row_shape).astype(native)

    def _read_whole(self, file: IO[bytes]) -> np.ndarray:
        """Returns all rows: mapped from an .npy file, else in memory if they fit."""
        if not self._name:
            return np.load(self._path, mmap_mode="r", allow_pickle=False)
        size = self.dtype.itemsize * math.prod(self.shape)
        with zipfile.ZipFile(self._path) as archive:
            if size > archive.getinfo(f"{self._name}.npy").file_size:
                raise ValueError(f"it ends too early for its shape {self.shape}")
        allowed = allowed_bytes(0)
        require(
            size <= allowed,
            f"{self._name!r} in {self._path} is in Fortran order and takes {size / _GIB:.1f} GiB, "
            f"but only {allowed / _GIB:.1f} GiB of memory may be filled; "
            "numpy.ascontiguousarray changes the order, so that it is read block by block",
        )
        return np.lib.format.read_array(file, allow_pickle=False)

    @contextlib.contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        if not self._name:
            with self._path.open("rb") as file:
                yield file
        else:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{self._name}.npy") as file:
                yield file


def _open_arrays(path: Path) -> dict[str, _ArrayFile]:
    if path.suffix.lower() == ".npy":
        return {"": _ArrayFile(path)}
    with zipfile.ZipFile(path) as archive:
        names = [Path(file).stem for file in archive.namelist() if file.endswith(".npy")]
    return {name: _ArrayFile(path, name) for name in names}


def _choose(names: list[str], expected: _Expected, chosen: str, path: Path) -> str:
    """Returns the name of the array that holds the rows."""
    listed = ", ".join(map(repr, names)) or "nothing"
    if chosen:
        require(chosen in names, f"{path} has no array {chosen!r}; it holds {listed}")
        return chosen
    if expected.content == "codes" and "codes" in names:
        return "codes"
    found = [name for name in names if name not in _OTHER_ARRAYS and not name.endswith("_labels")]
    require(len(found) == 1, f"{path} holds {listed}; --array names the one to read")
    return found[0]


def _check_array(rows: _ArrayFile, expected: _Expected, title: str) -> None:
    dtype, shape = rows.dtype, rows.shape
    if expected.content == "images":
        kinds, allowed = "bf", "uint8, or floats in [0, 1]"
    else:
        kinds, allowed = "biuf", "real numbers"
    require(
        dtype.kind in kinds or dtype == np.uint8,
        f"{title} has the dtype {dtype}; {expected.content} must be {allowed}",
    )
    shapes = [expected.shape]
    if expected.content == "images" and expected.shape[-1] == 1:
        shapes.append(expected.shape[:-1])
    require(shape[1:] in shapes, f"{title} has the shape {shape}, but the model takes {expected}")
    require(shape[0] > 0, f"{title} has the shape {shape}: it holds no example")


def _as_inputs(given: np.ndarray, expected: _Expected, first_row: int, title: str) -> np.ndarray:
    """Returns images of uint8 as they are, and all else as finite float32."""
    is_images = expected.content == "images"
    if is_images and given.dtype == np.uint8:
        return given
    with np.errstate(over="ignore"):  # infinite numbers are refused below
        rows = given.astype(np.float32)
    numpy_files.require_finite(rows, given, first_row, title)
    if is_images:
        lowest, highest = rows.min(), rows.max()
        require(
            bool(lowest >= 0 and highest <= 1),
            f"{title} reaches from {lowest:g} to {highest:g}; images of floats must be in [0, 1]",
        )
    return rows


def _table_of_vectors(path: Path, training: TrainingData, label_column: str) -> Input:
    table = tables.open_table(path)
    label = label_column or (training.label_column if training.label_column in table.names else "")
    features = training.feature_names
    if features:
        known = (*features, *training.drop_columns, training.label_column, label)
        unknown = [name for name in table.names if name not in known]
        require(
            not unknown,
            f"the column {unknown[0] if unknown else ''!r} of {path} was not in the training's "
            "table; --label_column names one that is no feature",
        )
        require(label not in features, f"label_column={label!r} is a feature of the run")
    else:
        features = tuple(name for name in table.names if name != label)
        hint = "" if label else "; --label_column names one that is no feature"
        expected = _Expected(training.shape, "vectors")
        _require_width(path, "numbers", len(features), expected, hint)
    others = {"labels": label} if label else {}
    return Input(table.count, lambda size: _rows(path, features, others, training.fill, size))


def _table_of_codes(path: Path, code_size: int) -> Input:
    """Opens a table of codes with the labels and files that `encode` wrote with them."""
    table = tables.open_table(path)
    found = [name for name in table.names if name.startswith(_CODE_PREFIX)]
    _require_width(path, "codes", len(found), _Expected((code_size,), "codes"))
    names = [f"{_CODE_PREFIX}{k}" for k in range(code_size)]
    singular = {"labels": "label", "files": "file"}
    others = {plural: name for plural, name in singular.items() if name in table.names}
    return Input(table.count, lambda size: _rows(path, names, others, None, size))


def _require_width(
    path: Path, content: str, count: int, expected: _Expected, hint: str = ""
) -> None:
    require(
        count == expected.shape[0],
        f"{path} has {count} columns of {content}, but the model takes {expected}{hint}",
    )


def _rows(
    path: Path,
    features: Sequence[str],
    others: Mapping[str, str],
    fill: np.ndarray | None,
    size: int,
) -> Iterator[Block]:
    """Yields a table's rows with the columns of `others`, which maps fields of Block to names."""
    types = {"files": pa.string()}
    for rows, given in tables.blocks(
        path, features, beside=list(others.values()), keep_missing=fill is not None
    ):
        if fill is not None:
            data.fill_in(rows, fill)
        columns = {}
        for (field, name), column in zip(others.items(), given, strict=True):
            if field not in types:  # all blocks get the type of the first
                types[field] = _column_type(path, column)
            columns[field] = _column(path, name, column, types[field])
        for start in range(0, len(rows), size):
            chosen = slice(start, start + size)
            yield Block(rows[chosen], **{name: column[chosen] for name, column in columns.items()})


def _column_type(path: Path, column: pa.Array) -> pa.DataType:
    """Returns the type of a column; in a text file, the first one that all values parse as."""
    if path.suffix.lower() in tables.SEPARATORS:
        for kind in (pa.int64(), pa.float64()):
            with contextlib.suppress(pa.ArrowInvalid):
                return column.cast(kind).type
    return column.type


def _column(path: Path, name: str, column: pa.Array, kind: pa.DataType) -> np.ndarray:
    """Returns a column of labels or file names, [B]."""
    try:
        values = column.cast(kind).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"the column {name!r} of {path} begins as {kind}, but does not go on as such "
            f"({in_one_line(error)})"
        ) from error
    values = values.astype(str) if values.dtype.hasobject else values
    require(
        values.dtype.kind in _LABEL_KINDS,
        f"the column {name!r} of {path} is of type {column.type}; labels are numbers or text",
    )
    return values


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises UserError where the body raises what a damaged or missing file makes it raise."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or in_one_line(error)}") from error
    except numpy_files.DAMAGE_ERRORS as error:
        raise UserError(f"{path} cannot be read ({in_one_line(error)})") from error
