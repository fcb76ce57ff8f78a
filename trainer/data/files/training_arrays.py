"""Reads the arrays of a training from an .npy or .npz file, by their usual names and shapes."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainer.data.dataset import Records
from trainer.data.files.numpy_files import (
    StoredArray,
    check_examples,
    example_blocks,
    open_arrays,
)
from trainer.data.memory import BLOCK_ROWS, aligned_empty, require_fits
from trainer.errors import UserError, require
from trainer.storage import paths

# The usual names of each array, in small letters.
_NAMES = {
    "train": ("train", "x_train", "train_images", "train_x", "x", "images", "data", "arr_0"),
    "validation": ("validation", "val", "x_val", "x_valid", "val_images", "val_x"),
    "test": ("test", "x_test", "test_images", "test_x"),
    "train_labels": ("train_labels", "y_train", "train_y", "y", "labels", "target"),
    "validation_labels": ("validation_labels", "val_labels", "y_val", "y_valid", "val_y"),
    "test_labels": ("test_labels", "y_test", "test_y"),
}
_CHANNELS = (1, 3, 4)
_MIN_IMAGE_SIDE = 8  # of three-dimensional floats that are taken for images


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Holds the arrays of a training by their splits in `paths.SPLITS`; a split may be absent."""

    examples: dict[str, np.ndarray]  # uint8 or float32 [N, H, W, C], or float32 [N, D]
    labels: dict[str, np.ndarray]  # int64 [N]
    class_names: tuple[str, ...]  # by label, if the labels are words
    notes: tuple[str, ...]  # for the user: how the arrays were read


def read(path: Path, allowed_bytes: float, layout: str = "auto") -> Arrays:
    """Reads the training examples and, if present, the other splits and the labels of each.

    The array of an .npy file, and one that is alone in an .npz file, are the training examples.
    Vectors [N, D] of any real numbers become float32. Images [N, H, W, C] or [N, H, W] are integers
    from 0 to 255, which become uint8, or floats in [0, 1]. Windows of series [N, T, C] become
    vectors [N, T * C]. Labels are whole numbers or words, [N] or [N, 1], or one-hot [N, classes].

    Raises:
      UserError: the file cannot be read, does not fit the allowed bytes, or holds other arrays.
    """
    stored = _by_role(path, open_arrays(path))
    require_fits(str(path), sum(array.nbytes for array in stored.values()), allowed_bytes)
    train = stored["train"]
    layout, notes = _layout(train, layout, allowed_bytes)
    examples, labels = {}, {}
    for split in paths.SPLITS:
        if split in stored:
            require(
                stored[split].shape[1:] == train.shape[1:],
                f"{stored[split]} has rows of {_times(stored[split].shape[1:])} numbers, "
                f"{train} of {_times(train.shape[1:])}",
            )
            examples[split] = _examples(stored[split], layout, allowed_bytes)
        if f"{split}_labels" in stored:
            found = stored[f"{split}_labels"]
            require(split in stored, f"{found} are labels without examples of the {split} split")
            labels[split] = _labels(found, len(examples[split]), allowed_bytes)
    return Arrays(examples, *_as_integers(labels, path), notes)


def open_records(path: Path, layout: str = "auto") -> tuple[Records, tuple[str, ...]]:
    """Opens the array of an .npy file as training examples that stay in the file.

    Returns the examples, as `read` would make them, and notes for the user.

    Raises:
      UserError: the file is not an .npy file, or stored by columns, or as `read`.
    """
    stored = open_arrays(path).get("")
    if stored is None or stored.by_columns:
        raise UserError(
            f"{path} does not stay in its file; an .npy file does, as numpy.save writes it by rows"
        )
    layout, notes = _layout(stored, layout, math.inf)
    images = layout.startswith("channels")
    check_examples(stored, images=images)
    for _ in example_blocks(stored, BLOCK_ROWS, math.inf, images=images):
        pass  # each value is checked once
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    dtype = np.uint8 if images and stored.dtype.kind in "iu" else np.float32

    def read_rows(rows: np.ndarray) -> np.ndarray:
        return _arranged(mapped[rows].astype(dtype), layout)

    return Records(read_rows, np.arange(len(mapped))), notes


def role_of(name: str) -> str:
    """Returns what an array of this name usually holds, a key of `_NAMES`; "" if not known."""
    return next((role for role, names in _NAMES.items() if name.lower() in names), "")


def _by_role(path: Path, stored: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """Returns the arrays by their roles, the keys of `_NAMES`.

    Raises:
      UserError: two arrays have the same role, or one has none.
    """
    if "" in stored:
        return {"train": stored[""]}
    roles: dict[str, StoredArray] = {}
    others = []
    for name, array in stored.items():
        role = role_of(name)
        if not role:
            others.append(name)
            continue
        require(role not in roles, f"{array} and {roles.get(role)} are both the array {role}")
        roles[role] = array
    if "train" not in roles and len(others) == 1:
        roles["train"] = stored[others.pop()]
    listed = ", ".join(map(repr, stored)) or "nothing"
    require(
        "train" in roles and not others, f"{path} holds {listed}; the known names are {_known()}"
    )
    return roles


def _known() -> str:
    return ", ".join(names[0] for names in _NAMES.values()) + ", and x_train, y_train and so on"


def _layout(stored: StoredArray, layout: str, allowed_bytes: float) -> tuple[str, tuple[str, ...]]:
    """Returns the layout of examples, "vectors" for two dimensions, and notes for the user."""
    shape = stored.shape
    require(
        len(shape) in (2, 3, 4),
        f"{stored} has the shape {shape}; vectors are [N, D], windows of series [N, T, C], images "
        "[N, H, W] or [N, H, W, C]",
    )
    if len(shape) == 2:
        require(
            layout == "auto", f"data.layout={layout!r} is not for {stored}, whose rows are vectors"
        )
        return "vectors", ()
    if layout == "auto" and len(shape) == 4:
        require(
            not (shape[1] in _CHANNELS and shape[3] not in _CHANNELS),
            f"{stored} has the shape {shape}: are these {shape[1]} channels or rows? "
            "data.layout=channels_first or data.layout=channels_last says which",
        )
    require(
        layout != "series" or len(shape) == 3,
        f"data.layout='series' is not for {stored} of shape {shape}; windows are [N, T, C]",
    )
    if layout == "auto" and len(shape) == 3 and _is_series(stored, allowed_bytes):
        layout = "series"
    if layout != "series":
        return "channels_last" if layout == "auto" else layout, ()
    steps, values = shape[1:]
    return layout, (
        f"{stored} holds windows of {steps} steps of {values} values, flattened to vectors of "
        f"{steps * values}; data.layout=channels_last takes images instead",
    )


def _is_series(stored: StoredArray, allowed_bytes: float) -> bool:
    """Returns whether numbers [N, A, B] cannot be images: small, or beyond the range of pixels."""
    if stored.dtype == np.uint8:
        return False
    if min(stored.shape[1:]) < _MIN_IMAGE_SIDE:
        return True
    largest = 255 if stored.dtype.kind in "iu" else 1
    blocks = stored.blocks(BLOCK_ROWS, allowed_bytes)
    return any(block.min() < 0 or block.max() > largest for block in blocks)


def _examples(stored: StoredArray, layout: str, allowed_bytes: float) -> np.ndarray:
    """Reads vectors or images into memory that TensorFlow can share."""
    images = layout.startswith("channels")
    check_examples(stored, images=images)
    dtype = np.uint8 if images and stored.dtype.kind in "iu" else np.float32
    no_row = _arranged(np.empty((1, *stored.shape[1:]), np.bool_), layout)
    examples = aligned_empty((stored.shape[0], *no_row.shape[1:]), dtype)
    start = 0
    for block in example_blocks(stored, BLOCK_ROWS, allowed_bytes, images=images):
        examples[start : start + len(block)] = _arranged(block, layout)
        start += len(block)
    return examples


def _arranged(rows: np.ndarray, layout: str) -> np.ndarray:
    """Returns rows of a layout as images [n, H, W, C] or vectors [n, D]."""
    if layout == "series":
        return rows.reshape(len(rows), -1)
    if layout.startswith("channels") and rows.ndim == 3:
        return rows[..., np.newaxis]
    return np.moveaxis(rows, 1, -1) if layout == "channels_first" else rows


def _labels(stored: StoredArray, count: int, allowed_bytes: float) -> np.ndarray:
    """Returns labels [N], whole numbers or text."""
    shape, kind = stored.shape, stored.dtype.kind
    require(
        kind in "biufUS" and len(shape) in (1, 2) and shape[0] == count,
        f"{stored} must be {count} whole numbers or words, one for each row, or one-hot; but is "
        f"{stored.dtype} {list(shape)}",
    )
    labels = np.concatenate(list(stored.blocks(BLOCK_ROWS, allowed_bytes)))
    labels = flat_labels(labels, stored)
    if labels.dtype.kind == "U":
        return labels
    if labels.dtype.kind in "fu":
        allowed = (labels == np.rint(labels)) & (np.abs(labels.astype(np.float64)) < 2**63)
        require(
            bool(allowed.all()),
            f"{stored} holds {labels[np.argmin(allowed)]}; labels are whole numbers below 2^63",
        )
    return labels.astype(np.int64)


def flat_labels(labels: np.ndarray, stored: StoredArray) -> np.ndarray:
    """Returns labels [n] of rows [n], [n, 1] or one-hot [n, classes] of an array; text as str.

    Raises:
      UserError: the rows are neither, or text that cannot be read.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        is_onehot = (
            labels.dtype.kind not in "US"
            and np.isin(labels, (0, 1)).all()
            and (labels.sum(1) == 1).all()
        )
        require(
            bool(is_onehot),
            f"{stored} of shape {list(stored.shape)} is not one-hot: one 1 in each row",
        )
        return labels.argmax(axis=1)
    try:
        return labels.astype(str) if labels.dtype.kind in "US" else labels
    except UnicodeDecodeError as error:
        raise UserError(f"{stored} holds words that are not ASCII, as bytes") from error


def _as_integers(
    labels: dict[str, np.ndarray], path: Path
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Numbers labels that are words, in their sorted order; returns the words too."""
    are_words = {split: array.dtype.kind == "U" for split, array in labels.items()}
    if not any(are_words.values()):
        return labels, ()
    require(all(are_words.values()), f"some labels of {path} are words, others numbers")
    if "train" not in labels:
        raise UserError(f"{path} holds labels that are words, but none of the training examples")
    class_names = np.unique(np.concatenate(list(labels.values())))
    integers = {split: np.searchsorted(class_names, words) for split, words in labels.items()}
    return integers, tuple(class_names.tolist())


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
