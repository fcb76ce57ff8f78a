"""Reads examples and codes from images, arrays and tables of any length, block by block."""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer import data
from trainer.config import Data
from trainer.data.dataset import Split, named
from trainer.data.features import Features
from trainer.data.files import image_folder, images, numpy_files, tables, training_arrays
from trainer.data.files.decoder import Decoder, Unreadable
from trainer.data.files.open_table import OpenTable, open_table
from trainer.data.memory import allowed_bytes
from trainer.data.sources import images as images_source
from trainer.data.sources import table
from trainer.errors import UserError, in_one_line, listed, require
from trainer.run import restore
from trainer.serving import array_names
from trainer.serving.options import DEFAULTS, StreamOptions, describe
from trainer.storage import paths

_CODE_PREFIX = "code_"  # of a table's columns of codes
_ERROR_COLUMNS = ("error", "pca_error", "distance", *array_names.ANOMALIES)
_ERROR_PREFIX = "squared_error_"


class Block(NamedTuple):
    """Holds consecutive rows of an input."""

    rows: np.ndarray  # images [B, H, W, C], uint8 or float32 in [0, 1]; else float32 [B, D]
    labels: np.ndarray | None = None  # [B], numbers or text
    files: np.ndarray | None = None  # str [B], names relative to the input folder
    ids: Mapping[str, np.ndarray] = {}  # [B] by column, numbers or text


@dataclasses.dataclass(frozen=True)
class Input:
    """Reads rows block by block."""

    count: int | None  # None: not known before the end
    blocks: Callable[[int], Iterator[Block]]  # takes the maximum rows of a block
    is_standardised: bool = False  # the vectors are the model's inputs, not in the user's units
    unreadable: Sequence[str] = ()  # files that were left out, and why; complete after the last row
    unknown: Sequence[str] = ()  # lines on columns with unknown texts, after the last row


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Describes how the training turned its files into examples, before any standardisation."""

    shape: tuple[int, ...]  # (H, W, C) or (D,)
    settings: Data | None = None  # the run's config.data
    has_classes: bool = False  # the training's images were in class folders
    features: Features | None = None  # of a table
    fill: np.ndarray | None = None  # float64 [D], replaces a table's missing values

    @property
    def decoder(self) -> Decoder:
        """Returns the decoder of the training's images; the default one after other data."""
        if isinstance(self.settings, images_source.Settings):
            return images_source.decoder_of(self.settings)
        return Decoder()

    @property
    def table_keys(self) -> table.Settings:
        """Returns the keys of the training's table; their defaults after other data."""
        if isinstance(self.settings, table.Settings):
            return self.settings
        return table.Settings("table:")


def preprocessing_of(trained: restore.TrainedModel) -> Preprocessing:
    """Returns how the training of a model turned its files into examples."""
    return Preprocessing(
        trained.model.image_shape,
        trained.config.data,
        "class_names" in trained.run.inputs,
        trained.features,
        trained.fill,
    )


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
            ids = {name: column[chosen] for name, column in examples.ids.items()}
            labels = named(labels, dataset.class_names)
            yield Block(examples.images[chosen], labels, files, ids)

    return Input(len(examples), blocks, is_standardised=dataset.scaling is not None)


def examples(path: Path, training: Preprocessing, options: StreamOptions = DEFAULTS) -> Input:
    """Opens images or vectors, to be read as the training read its data.

    Takes one image file, or all of a folder and its subfolders in the order of their names; an
    array of an .npy or .npz file; or a table, whose rows are vectors. A table needs the feature
    columns of the training's table, in any order; if the training had none, all columns are
    features. The labels are in `options.label_column`, or else in the training's label column.

    Raises:
      UserError: here or while reading, if the input cannot be read or does not fit the model.
    """
    shape = training.shape
    if path.is_dir() or image_folder.is_image(path.name):
        return _images(path, training, options)
    if paths.table_suffix(path):
        opened = open_table(path, training.table_keys.text_format())
        return of_table(opened, training, options)
    expected = _Expected(shape, "vectors" if len(shape) == 1 else "images")
    return _arrays(path, expected, options, getattr(training.settings, "layout", "auto"))


def codes(path: Path, code_size: int, options: StreamOptions = DEFAULTS) -> Input:
    """Opens codes [N, K] as `encode` writes them: an array, or columns code_0 and so on.

    Raises:
      UserError: as `examples`.
    """
    if paths.table_suffix(path):
        return _table_of_codes(path, code_size)
    return _arrays(path, _Expected((code_size,), "codes"), options)


def _images(path: Path, training: Preprocessing, options: StreamOptions) -> Input:
    shape = training.shape
    height, width, channels = shape
    folder = path if path.is_dir() else path.parent
    files = image_folder.names(path) if path.is_dir() else [path.name]
    suffixes = ", ".join(paths.IMAGE_SUFFIXES)
    require(len(files) > 0, f"{path} holds no image that ends in {suffixes}")
    size = (height, width) if options.resize else 0
    decoder = dataclasses.replace(training.decoder, channels=channels, image_size=size)
    unreadable: list[str] = []
    classes = image_folder.classes_of(files) if training.has_classes else None

    def blocks(size: int) -> Iterator[Block]:
        decoded = images.decode(folder, files, decoder)
        for start in range(0, len(files), size):
            names, rows = [], []
            for name, image in zip(files[start : start + size], decoded, strict=False):
                if isinstance(image, Unreadable):
                    unreadable.append(f"{folder / name} ({image.reason})")
                    continue
                require(
                    image.shape == shape,
                    f"{folder / name} is {image.shape[0]}x{image.shape[1]} pixels, but the model "
                    f"takes {height}x{width}; --resize (resize=True in Python) scales images",
                )
                names.append(name)
                rows.append(image)
            if rows:
                labels = None if classes is None else np.array([classes[name] for name in names])
                yield Block(np.stack(rows), labels, np.array(names))

    return Input(len(files), blocks, unreadable=unreadable)


def _arrays(path: Path, expected: _Expected, options: StreamOptions, layout: str = "auto") -> Input:
    """Opens the array of an .npy file, or one of an .npz file with its labels and file names."""
    arrays, are_codes = numpy_files.open_arrays(path), expected.content == "codes"
    name = array_names.choose(arrays, options.array, path, are_codes=are_codes)
    stored = arrays[name]
    is_images = expected.content == "images"
    numpy_files.check_examples(stored, images=is_images)
    *sides, channels = expected.shape
    stored_shapes = [(channels, *sides) if layout == "channels_first" else expected.shape]
    if is_images and channels == 1:
        stored_shapes.append(tuple(sides))
    is_series = expected.content == "vectors" and len(stored.shape) == 3
    require(
        stored.shape[1:] in stored_shapes
        or (is_series and math.prod(stored.shape[1:]) == expected.shape[0]),
        f"{stored} has the shape {stored.shape}, but the model takes {expected}",
    )
    given = array_names.columns(arrays, name, are_codes=are_codes)

    def blocks(size: int) -> Iterator[Block]:
        memory = allowed_bytes(0)
        read = {name: column.blocks(size, memory) for name, column in given.items()}
        for rows in numpy_files.example_blocks(stored, size, memory, images=is_images):
            if layout == "channels_first" and rows.ndim == 4:
                rows = np.moveaxis(rows, 1, -1)
            found = {name: next(column) for name, column in read.items()}
            labels, files = found.pop("labels", None), found.pop("files", None)
            if labels is not None:
                labels = training_arrays.flat_labels(labels, given["labels"])
            yield Block(rows.reshape(-1, *expected.shape), labels, files, found)

    return Input(stored.shape[0], blocks)


def of_rows(rows: np.ndarray, shape: tuple[int, ...], content: str = "") -> Input:
    """Reads an array of examples [N, *shape], or [N, H, W] of grey images.

    `content` names the rows in messages: by default "vectors" or "images", by the shape.

    Raises:
      UserError: the shape or the type is another.
    """
    by_shape = "vectors" if len(shape) == 1 else "images"
    expected = _Expected(shape, content or by_shape)
    if rows.ndim == 3 and shape[-1:] == (1,) and len(shape) == 3:
        rows = rows[..., np.newaxis]
    require(
        rows.ndim == len(shape) + 1 and rows.shape[1:] == shape and rows.dtype.kind in "biuf",
        f"the array is {rows.dtype} {list(rows.shape)}, but the model takes {expected}",
    )
    if by_shape == "images" and rows.dtype != np.uint8:
        top = 255 if rows.dtype.kind in "iu" else 1
        require(
            bool(rows.size == 0 or (rows.min() >= 0 and rows.max() <= top)),
            f"the array holds values from {rows.min()} to {rows.max()}; pixels are 0 to {top}",
        )
        rows = rows.astype(np.uint8 if top == 255 else np.float32)
    elif by_shape == "vectors":
        rows = rows.astype(np.float32)
        require(bool(np.isfinite(rows).all()), "the array holds values that are not finite")

    def blocks(size: int) -> Iterator[Block]:
        for start in range(0, len(rows), size):
            yield Block(rows[start : start + size])

    return Input(len(rows), blocks)


def of_table(
    opened: OpenTable, training: Preprocessing, options: StreamOptions = DEFAULTS
) -> Input:
    """Reads the features of a table, as the training did, with its labels and ids."""
    keys, path = training.table_keys, opened.path
    label = options.label_column or (keys.label_column if keys.label_column in opened.names else "")
    ids = tuple(name for name in keys.id_columns if name in opened.names)
    features = training.features
    others = {label, *ids, *opened.index, *opened.blank}
    if features:
        tables.require_columns(path, features.columns, opened.names)  # a renamed one is unknown too
        known = {*features.columns, *keys.drop_columns, keys.label_column, *others}
        unknown = [name for name in opened.names if name not in known]
        require(
            not unknown,
            f"{path} has columns that the training's table did not have: "
            f"{listed(map(repr, unknown))}; remove them from the file, or name the column of "
            "labels with --label_column",
        )
        require(label not in features.columns, f"label_column={label!r} is a feature of the run")
    else:
        features = Features(tuple(name for name in opened.names if name not in others))
        hint = "" if label else "; --label_column names one that is not a feature"
        expected = _Expected(training.shape, "vectors")
        _require_width(path, "numbers", len(features.columns), expected, hint)
    texts: list[str] | None = [] if options.unknown_categories else None
    extra = _Extra(label, "", ids)
    blocks = functools.partial(_rows, opened, features, extra, training.fill, texts)
    return Input(opened.count, blocks, unknown=() if texts is None else texts)


def _table_of_codes(path: Path, code_size: int) -> Input:
    """Opens a table of codes; other columns, which `encode` wrote with them, are kept."""
    opened = open_table(path)
    found = [name for name in opened.names if re.fullmatch(rf"{_CODE_PREFIX}\d+", name)]
    _require_width(path, "codes", len(found), _Expected((code_size,), "codes"))
    features = Features(tuple(f"{_CODE_PREFIX}{k}" for k in range(code_size)))
    label, file = (name if name in opened.names else "" for name in ("label", "file"))
    others = {*features.columns, "label", "file", *_ERROR_COLUMNS, *opened.index, *opened.blank}
    kept = [name for name in opened.names if not name.startswith(_ERROR_PREFIX)]
    extra = _Extra(label, file, tuple(name for name in kept if name not in others))
    return Input(opened.count, functools.partial(_rows, opened, features, extra, None, None))


def _require_width(
    path: Path, content: str, count: int, expected: _Expected, hint: str = ""
) -> None:
    require(
        count == expected.shape[0],
        f"{path} has {count} columns of {content}, but the model takes {expected}{hint}",
    )


@dataclasses.dataclass(frozen=True)
class _Extra:
    """Names the columns of a table that are not features; "" for none."""

    label: str
    file: str
    ids: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.label, self.file, *self.ids) if name)


def _rows(
    opened: OpenTable,
    features: Features,
    extra: _Extra,
    fill: np.ndarray | None,
    unknown: list[str] | None,
    size: int,
) -> Iterator[Block]:
    """Yields a table's rows; `fill` and `unknown` are as in `Preprocessing` and `tables.blocks`."""
    path, names = opened.path, extra.names
    types: dict[str, pa.DataType] = {}
    for rows, given in tables.blocks(
        opened, features, extra=names, keep_missing=fill is not None, unknown=unknown
    ):
        if fill is not None:
            data.fill_in(rows, fill)
        columns = {}
        for name, column in zip(names, given, strict=True):
            if name not in types:  # all blocks get the type of the first
                types[name] = _column_type(path, column) if name == extra.label else column.type
            columns[name] = _column(path, name, column, types[name])
        for start in range(0, len(rows), size):
            chosen = slice(start, start + size)
            yield Block(
                rows[chosen],
                columns[extra.label][chosen] if extra.label else None,
                columns[extra.file][chosen].astype(str) if extra.file else None,
                {name: columns[name][chosen] for name in extra.ids},
            )


def _column_type(path: Path, column: pa.Array) -> pa.DataType:
    """Returns the type of a column; in text files the first type that all values parse as."""
    if paths.table_suffix(path) in paths.TEXT_SUFFIXES:
        column = pc.utf8_trim_whitespace(column)
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
        values.dtype.kind in array_names.LABEL_KINDS,
        f"the column {name!r} of {path} is of type {column.type}; labels are numbers or text",
    )
    return values
