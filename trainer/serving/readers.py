"""What a trained model is handed, read as a stream: pictures, arrays and tables of any length."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from trainer import data
from trainer.data.dataset import Split
from trainer.data.files import images as image_folders
from trainer.data.files import numpy_files, tables
from trainer.data.memory import allowed_bytes
from trainer.errors import UserError, in_one_line, require
from trainer.storage import paths

_FILE_SUFFIXES = (*numpy_files.SUFFIXES, *tables.SUFFIXES)
_CODE = "code_"  # how the columns of codes in a table begin
_LABEL_KINDS = "biufU"  # of NumPy's types: numbers or text
_CHARACTER_BYTES = 4  # of NumPy's text
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
class Training:
    """What a training made of its data before the model saw them, but for scaling."""

    fit: str = "stretch"  # how pictures became squares
    feature_names: tuple[str, ...] = ()  # of a table's columns, in the model's order
    label_column: str = ""  # of such a table
    drop_columns: tuple[str, ...] = ()  # likewise, left out
    fill: np.ndarray | None = None  # float64 [D], what stands in a table for missing numbers


@dataclasses.dataclass(frozen=True)
class _Expected:
    """What each example has to be for the model."""

    shape: tuple[int, ...]
    what: str  # "images", "vectors" or "codes"

    def __str__(self) -> str:
        return f"{self.what} of {_times(self.shape)}"


def of_part(dataset: data.Dataset, name: str) -> Input:
    """A part of the run's own data, by its name in `places.PARTS`."""
    part: Split = getattr(dataset, name)

    def blocks(size: int) -> Iterator[Block]:
        for start in range(0, len(part), size):
            some = slice(start, start + size)
            labels = None if part.labels is None else part.labels[some]
            files = None if part.file_names is None else part.file_names[some].astype(str)
            yield Block(part.images[some], labels, files)

    return Input(len(part), blocks, standardised=dataset.scaling is not None)


def examples(
    path: Path,
    image_shape: tuple[int, ...],
    training: Training = Training(),
    *,
    array: str = "",
    label_column: str = "",
    resize: bool = False,
) -> Input:
    """Images or vectors for a model of this shape, (H, W, C) or (D,), as its training had them.

    Of pictures: one, or those of a folder and its folders, by their names; each in the model's
    channels and, with `resize`, its size. Of an .npy or .npz file: the one array, or that named
    `array`. Of a table: a vector of each row, of the columns that the training had, in any order;
    where that had no table, of all in their order. `label_column` goes along, or the training's.

    Raises:
      UserError: here or on the way, the input is not there, cannot be read, or does not fit.
    """
    expected = _Expected(image_shape, "vectors" if len(image_shape) == 1 else "images")
    suffix = path.suffix.lower()
    paths.require_exists(path)
    of_pictures = path.is_dir() or image_folders.is_image(path.name)
    require(
        of_pictures or suffix in _FILE_SUFFIXES,
        f"input={str(path)!r} is not known; allowed: {', '.join(paths.PARTS)}, a folder of "
        f"pictures, or a file that ends in {', '.join((*image_folders.SUFFIXES, *_FILE_SUFFIXES))}",
    )
    require(not array or suffix == ".npz", f"array={array!r} is for .npz files only, not {path}")
    require(
        not label_column or (suffix in tables.SUFFIXES and not of_pictures),
        f"label_column={label_column!r} is for tables only, not {path}",
    )
    require(
        not resize or of_pictures,
        f"resize is of pictures; {path} keeps the shape that it has",
    )
    if of_pictures:
        return _pictures(path, expected, resize, training.fit)
    if suffix in numpy_files.SUFFIXES:
        return _arrays(path, expected, array)
    require(expected.what == "vectors", f"{path} is a table, but the model takes {expected}")
    return _table(path, expected, training, label_column)


def codes(path: Path, code_size: int, *, array: str = "") -> Input:
    """Codes [., K] of a model, as `encode` writes them: arrays, or tables with code_0 and so on.

    Raises:
      UserError: as `examples`.
    """
    expected = _Expected((code_size,), "codes")
    suffix = path.suffix.lower()
    paths.require_exists(path)
    require(
        suffix in _FILE_SUFFIXES and not path.is_dir(),
        f"input={str(path)!r} is not known; allowed: a file of codes that ends in "
        f"{', '.join(_FILE_SUFFIXES)}",
    )
    require(not array or suffix == ".npz", f"array={array!r} is for .npz files only, not {path}")
    return (
        _arrays(path, expected, array)
        if suffix in numpy_files.SUFFIXES
        else _table_of_codes(path, expected)
    )


def _pictures(path: Path, expected: _Expected, resize: bool, fit: str) -> Input:
    require(expected.what == "images", f"{path} holds pictures, but the model takes {expected}")
    height, width, channels = expected.shape
    require(
        channels in image_folders.MODES,
        f"the model takes images of {channels} channels; pictures have "
        f"{', '.join(map(str, image_folders.MODES))}",
    )
    folder = path if path.is_dir() else path.parent
    files = image_folders.names(path) if path.is_dir() else [path.name]
    require(
        len(files) > 0,
        f"{path} holds no picture that ends in {', '.join(image_folders.SUFFIXES)}",
    )
    decoder = image_folders.Decoder(channels=channels)
    if resize:
        decoder = image_folders.Decoder((height, width), channels, fit)

    def blocks(size: int) -> Iterator[Block]:
        images = image_folders.decode(folder, files, decoder)
        for start in range(0, len(files), size):
            some = files[start : start + size]
            rows = np.empty((len(some), *expected.shape), np.uint8)
            for name, row, image in zip(some, rows, images, strict=False):
                require(
                    image.shape == row.shape,
                    f"{folder / name} is {_times(image.shape[:2])} pixels, but the model takes "
                    f"{height}x{width}; --resize scales pictures",
                )
                row[:] = image
            yield Block(rows, files=np.array(some))

    return Input(len(files), blocks)


def _arrays(path: Path, expected: _Expected, chosen: str) -> Input:
    """The rows of an .npy file, or of an array in an .npz file with its labels and file names."""
    members = numpy_files.open_arrays(path)
    name = _chosen(list(members), expected, chosen, path)
    rows = members[name]
    _check_array(rows, expected)
    labels = members.get(f"{name}_labels") or members.get("labels")
    files = members.get("files")
    for column in (labels, files):
        require(
            column is None
            or (
                column.shape == rows.shape[:1]
                and column.dtype.kind in _LABEL_KINDS
                and column.dtype.itemsize <= _CHARACTER_BYTES * tables.MAX_TEXT_BYTES
            ),
            f"{path} has {rows.shape[0]} rows, but not as many labels or file names of numbers or "
            f"text of at most {tables.MAX_TEXT_BYTES:,} characters",
        )

    def blocks(size: int) -> Iterator[Block]:
        allowed = allowed_bytes(0)
        along = [
            None if column is None else column.blocks(size, allowed) for column in (labels, files)
        ]
        images = expected.what == "images"
        for block in numpy_files.example_blocks(rows, size, allowed, images=images):
            yield Block(
                block.reshape(-1, *expected.shape),
                *(None if column is None else next(column) for column in along),
            )

    return Input(rows.shape[0], blocks)


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


def _check_array(rows: numpy_files.StoredArray, expected: _Expected) -> None:
    numpy_files.check_examples(rows, images=expected.what == "images")
    grey = len(expected.shape) == 3 and expected.shape[-1] == 1
    require(
        rows.shape[1:] == expected.shape or (grey and rows.shape[1:] == expected.shape[:-1]),
        f"{rows} has the shape {rows.shape}, but the model takes {expected}",
    )


def _table(path: Path, expected: _Expected, training: Training, label_column: str) -> Input:
    """The rows of a table, as vectors of the run's columns, or where it has none, of all."""
    table = tables.open_table(path)
    label = label_column or (training.label_column if training.label_column in table.names else "")
    features = training.feature_names
    if features:
        known = (*features, *training.drop_columns, training.label_column, label)
        unknown = [name for name in table.names if name not in known]
        require(
            not unknown,
            f"the column {unknown[0] if unknown else ''!r} of {path} was not in the training; "
            "--label_column names one that is no feature",
        )
        require(label not in features, f"label_column={label!r} is a feature of the run")
    else:
        features = tuple(name for name in table.names if name != label)
        hint = "" if label else "; --label_column names one that is no feature"
        _require_width(path, "numbers", len(features), expected, hint)
    along = {"labels": label} if label else {}
    return Input(table.count, lambda size: _rows(path, features, along, training.fill, size))


def _table_of_codes(path: Path, expected: _Expected) -> Input:
    """The rows of a table, as codes with the labels and files that `encode` wrote beside them."""
    table = tables.open_table(path)
    found = [name for name in table.names if name.startswith(_CODE)]
    _require_width(path, "codes", len(found), expected)
    numbers = [f"{_CODE}{k}" for k in range(len(found))]
    along = {
        plural: name
        for plural, name in {"labels": "label", "files": "file"}.items()
        if name in table.names
    }
    return Input(table.count, lambda size: _rows(path, numbers, along, None, size))


def _require_width(path: Path, what: str, count: int, expected: _Expected, hint: str = "") -> None:
    require(
        count == expected.shape[0],
        f"{path} has {count} columns of {what}, but the model takes {expected}{hint}",
    )


def _rows(
    path: Path,
    features: Sequence[str],
    along: Mapping[str, str],
    fill: np.ndarray | None,
    size: int,
) -> Iterator[Block]:
    """The rows of a table with the columns that go `along`, so many at a time."""
    kinds = {"files": pa.string()}
    for rows, beside in tables.blocks(
        path, features, extra=list(along.values()), keep_missing=fill is not None
    ):
        if fill is not None:
            data.fill_in(rows, fill)
        columns = {}
        for (plural, name), column in zip(along.items(), beside, strict=True):
            if plural not in kinds:  # one block cannot tell of the next
                kinds[plural] = _kind(path, column)
            columns[plural] = _column(path, name, column, kinds[plural])
        for start in range(0, len(rows), size):
            some = slice(start, start + size)
            yield Block(rows[some], **{name: column[some] for name, column in columns.items()})


def _kind(path: Path, column: pa.Array) -> pa.DataType:
    """The type of a column; what is all text in a file of text may be numbers."""
    if path.suffix.lower() in tables.SEPARATORS:
        for kind in (pa.int64(), pa.float64()):
            with contextlib.suppress(pa.ArrowInvalid):
                return column.cast(kind).type
    return column.type


def _column(path: Path, name: str, column: pa.Array, kind: pa.DataType) -> np.ndarray:
    """A column of labels or names, numbers or text."""
    try:
        taken = column.cast(kind).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"the column {name!r} of {path} begins as {kind}, but does not go on so "
            f"({in_one_line(error)})"
        ) from error
    taken = taken.astype(str) if taken.dtype.hasobject else taken
    require(
        taken.dtype.kind in _LABEL_KINDS,
        f"the column {name!r} of {path} is of type {column.type}; labels are numbers or text",
    )
    return taken


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
