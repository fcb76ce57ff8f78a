"""Finds the examples or codes, labels, file names and ids of a file by its arrays' names."""

import math
from collections.abc import Mapping
from pathlib import Path

from trainer.data.files.labels import MAX_TEXT_BYTES
from trainer.data.files.numpy_files import StoredArray
from trainer.data.files.training_arrays import role_of
from trainer.errors import require

LABEL_KINDS = "biufU"  # NumPy's kinds of types for numbers and text
ANOMALIES = ("is_anomaly", "is_anomaly_by_distance")
_ERRORS = ("errors", "pca_errors", "distances", "squared_errors", *ANOMALIES)
_OTHERS = ("labels", "files", *_ERRORS)  # arrays that are not examples
_MAX_TEXT_BYTES = 4 * MAX_TEXT_BYTES  # in NumPy's text
_MAX_ONE_HOT_BYTES = 2**17  # of a row: 16,384 classes as float64

_Arrays = Mapping[str, StoredArray]


def choose(arrays: _Arrays, chosen: str, path: Path, *, are_codes: bool) -> str:
    """Returns the name of the array that holds the rows, `chosen` or by the usual names.

    Raises:
      UserError: there is no such array, or there are several.
    """
    held = ", ".join(map(repr, arrays)) or "nothing"
    if chosen:
        require(chosen in arrays, f"{path} has no array {chosen!r}; it holds {held}")
        return chosen
    if are_codes and "codes" in arrays:
        return "codes"
    found = [name for name in arrays if name not in _OTHERS and not name.endswith("_labels")]
    if not are_codes:  # ids of codes may have any name
        found = [name for name in found if not role_of(name).endswith("_labels")]
    require(len(found) == 1, f"{path} holds {held}; --array names the one to read")
    return found[0]


def columns(arrays: _Arrays, name: str, *, are_codes: bool) -> dict[str, StoredArray]:
    """Returns the arrays "labels" and "files" that belong to the rows of an array, if present.

    Of codes also the ids that `trainer.encode` wrote, by their names. Labels of examples may be
    [N, 1] or one-hot, as in training.

    Raises:
      UserError: an array has another number of rows, or another type.
    """
    stored = arrays[name]
    labels = arrays.get(f"{name}_labels")
    if labels is None and are_codes:
        labels = arrays.get("labels")
    elif labels is None:
        labels = _labels_of(arrays, name)
    found = {"labels": labels, "files": arrays.get("files")}
    if are_codes:
        others = [other for other in arrays if other not in (name, *_OTHERS)]
        found |= {other: arrays[other] for other in others if not other.endswith("_labels")}
    given = {what: column for what, column in found.items() if column is not None}
    for what, column in given.items():
        is_labels = what == "labels" and not are_codes
        row_bytes = column.dtype.itemsize * math.prod(column.shape[1:])
        require(
            column.shape[:1] == stored.shape[:1]
            and len(column.shape) <= 1 + is_labels
            and column.dtype.kind in LABEL_KINDS + ("S" if is_labels else "")
            and row_bytes <= (_MAX_TEXT_BYTES if column.dtype.kind in "US" else _MAX_ONE_HOT_BYTES),
            f"{column} is {column.dtype} of shape {column.shape}; labels and file names must be "
            f"{stored.shape[0]} numbers or texts of at most {MAX_TEXT_BYTES:,} characters, labels "
            "of examples also one-hot",
        )
    return given


def _labels_of(arrays: _Arrays, name: str) -> StoredArray | None:
    """Returns the labels of the examples of an array: of its split, or the only ones there are."""
    roles = {other: role_of(other) for other in arrays}
    labels = [other for other, role in roles.items() if role.endswith("_labels")]
    own = [other for other in labels if roles[other] == f"{roles[name] or 'train'}_labels"]
    is_only = len(arrays.keys() - {*labels, *_OTHERS}) == 1
    chosen = own or (labels if is_only else [])
    return arrays[chosen[0]] if chosen else None
