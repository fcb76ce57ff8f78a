"""Reads examples and codes from images, arrays and tables of any length, block by block."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from trainer import data
from trainer.data.dataset import Split
from trainer.data.files import images, numpy_files, tables
from trainer.data.memory import allowed_bytes
from trainer.errors import UserError, in_one_line, require
from trainer.serving.options import DEFAULTS, StreamOptions, describe
from trainer.storage import paths

_CODE_PREFIX = "code_"  # of a table's columns of codes
_LABEL_KINDS = "biufU"  # NumPy's kinds of types for numbers and text
_CHARACTER_BYTES = 4  # of NumPy's text
_OTHER_ARRAYS = ("labels", "files", "errors")  # arrays of an .npz file that are no examples


class Block(NamedTuple):
    """Holds consecutive rows of an input."""

    rows: np.ndarray  # images [B, H, W, C], uint8 or float32 in [0, 1]; else float32 [B, D]
    labels: np.ndarray | None = None  # [B], numbers or text
    files: np.ndarray | None = None  # str [B], names relative to the input folder


@dataclasses.dataclass(frozen=True)
class Input:
    """Reads rows block by block."""

    count: int | None  # None: not known before the end
    blocks: Callable[[int], Iterator[Block]]  # takes the maximum rows of a block
    is_standardised: bool = False  # the vectors are the model's inputs, not in the user's units


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Describes how the training turned its files into examples, before any standardisation."""

    shape: tuple[int, ...]  # (H, W, C) or (D,)
    fit: str = "stretch"  # how images became squares
    feature_names: tuple[str, ...] = ()  # of a table's columns, in the model's order
    label_column: str = ""
    drop_columns: tuple[str, ...] = ()
    fill: np.ndarray | None = None  # float64 [D], replaces a table's missing values


@dataclasses.dataclass(frozen=True)
class _Expected:
    """Describes the rows that the model takes."""

    shape: tuple[int, ...]
    content: str  # "images", "vectors" or "codes"

    def __str__(self) -> str:
        return describe(self.shape, self.content)


def split(dataset: data.Dataset, name: str) -> Input:
    """Returns a split of the run's own data, by its name in `paths.SPLITS`."""
    examples: Split = getattr(dataset, name)

    def blocks(size: int) -> Iterator[Block]:
        for start in range(0, len(examples), size):
            chosen = slice(start, start + size)
            labels = None if examples.labels is None else examples.labels[chosen]
            names = examples.file_names
            files = None if names is None else names[chosen].astype(str)
            yield Block(examples.images[chosen], labels, files)

    return Input(len(examples), blocks, is_standardised=dataset.scaling is not None)


def examples(path: Path, training: TrainingData, options: StreamOptions = DEFAULTS) -> Input:
    """Opens images or vectors, to be read as the training read its data.

    Takes one image file, or all of a folder and its subfolders in the order of their names; an
    array of an .npy or .npz file; or a table, whose rows are vectors. A table needs the feature
    columns of the training's table, in any order; if the training had none, all columns are
    features. The labels are in `options.label_column`, or else in the training's label column.

    Raises:
      UserError: here or while reading, if the input cannot be read or does not fit the model.
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
        decoded = images.decode(folder, files, decoder)
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
    arrays = numpy_files.open_arrays(path)
    name = _choose(list(arrays), expected, options.array, path)
    stored = arrays[name]
    is_images = expected.content == "images"
    numpy_files.check_examples(stored, images=is_images)
    shapes = [expected.shape]
    if is_images and expected.shape[-1] == 1:
        shapes.append(expected.shape[:-1])
    require(
        stored.shape[1:] in shapes,
        f"{stored} has the shape {stored.shape}, but the model takes {expected}",
    )
    columns = [arrays.get(f"{name}_labels") or arrays.get("labels"), arrays.get("files")]
    for column in columns:
        require(
            column is None
            or (
                column.shape == stored.shape[:1]
                and column.dtype.kind in _LABEL_KINDS
                and column.dtype.itemsize <= _CHARACTER_BYTES * tables.MAX_TEXT_BYTES
            ),
            f"{path} has {stored.shape[0]} rows; labels and file names must be as many numbers or "
            f"texts of at most {tables.MAX_TEXT_BYTES:,} characters",
        )

    def blocks(size: int) -> Iterator[Block]:
        memory = allowed_bytes(0)
        others = [None if column is None else column.blocks(size, memory) for column in columns]
        for rows in numpy_files.example_blocks(stored, size, memory, images=is_images):
            yield Block(
                rows.reshape(-1, *expected.shape),
                *(None if column is None else next(column) for column in others),
            )

    return Input(stored.shape[0], blocks)


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
    """Yields a table's rows; `others` maps further fields of Block to the names of columns."""
    types = {"files": pa.string()}
    for rows, given in tables.blocks(
        path, features, extra=list(others.values()), keep_missing=fill is not None
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
    """Returns the type of a column; in text files the first type that all values parse as."""
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
            f"the column {name!r} of {path} begins with values of type {kind}, but holds others "
            f"({in_one_line(error)})"
        ) from error
    values = values.astype(str) if values.dtype.hasobject else values
    require(
        values.dtype.kind in _LABEL_KINDS,
        f"the column {name!r} of {path} is of type {column.type}; labels are numbers or text",
    )
    return values
