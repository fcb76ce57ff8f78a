"""Describes a data set before a long run; prepares one of TFDS in a folder first."""

import math
import shlex
from pathlib import Path

import numpy as np

from trainer import data
from trainer.config import Data, source_of
from trainer.data import statistics
from trainer.data.dataset import Split, to_unit
from trainer.data.files import idx, tfds_prepare
from trainer.data.memory import blocks
from trainer.errors import listed, require
from trainer.monitoring import figures
from trainer.storage import paths

_MAX_NAMES = 12
_SHEET_IMAGES = 100  # at most
_SHEET_COLUMNS = 10
_SHEET_PIXELS = 128  # of an image's side; larger images are subsampled
_ROUND_OFF = 1e-6  # stds, by which a standardised 0 may be off
_MAX_COLUMNS = 30  # of a table, described one by one
_MAX_DIFFERENT = 10  # values of a feature that are counted
_MAX_CATEGORIES = 20  # values of a feature that are likely to be categories
_ROWS_OF_CATEGORY = 10  # at least
_WHOLE = 1e-5


def prepare(
    settings: Data,
    folder: str | None = None,
    *,
    from_idx: str = "",
    contact_sheet: str = "",
    overwrite: bool = False,
) -> str:
    """Reads a data set as a training would, and returns a description for a person.

    Args:
      settings: `config.data`. With the placement "records", a data set of TFDS is prepared as
        ArrayRecord files, whose images can be read one by one.
      folder: where to prepare a missing data set of TFDS; None: TFDS_DATA_DIR.
      from_idx: the folder of MNIST's four original files, which replace a download.
      contact_sheet: a PNG file to draw some training images to, sorted by label.
      overwrite: replace an existing contact sheet.

    Raises:
      UserError: the data set cannot be prepared or read, or the contact sheet cannot be drawn.
    """
    paths.check_output_image("--contact_sheet", contact_sheet, overwrite=overwrite)
    check_tfds_flags(settings, folder, from_idx)
    name, is_tfds = settings.name, source_of(settings.name) == "tfds"
    state = _prepare(settings, folder, from_idx) if is_tfds else ""
    dataset = data.load(settings, folder=folder)
    rows = {"data set": name}
    if is_tfds:
        info = tfds_prepare.find(name, folder).info
        counts = [f"{key} {split.num_examples:,}" for key, split in info.splits.items()]
        rows = {"data set": f"{info.name} {info.version}, {state}", "splits": ", ".join(counts)}
    rows |= _describe(dataset)
    if contact_sheet:
        _draw(dataset, name, paths.path_of(contact_sheet))
        rows["sheet"] = contact_sheet
    if folder is not None:
        rows |= {"folder": folder, "to use it": f"TFDS_DATA_DIR={shlex.quote(folder)}"}
    return "\n".join(f"{key:<12} {value}" for key, value in rows.items())


def check_tfds_flags(settings: Data, folder: str | None, from_idx: str) -> None:
    """Raises UserError if a flag for data sets of TFDS is given with other data."""
    for flag, value in {"data_dir": folder, "from_idx": from_idx}.items():
        require(
            source_of(settings.name) == "tfds" or not value,
            f"--{flag} is not allowed with {settings.name!r}; it is for data sets of TFDS",
        )


def _prepare(settings: Data, folder: str | None, from_idx: str) -> str:
    """Prepares MNIST if `from_idx`; returns "was there already" or "prepared" for the user."""
    builder = tfds_prepare.find(settings.name, folder)
    require(
        not from_idx or builder.name == "mnist",
        f"from_idx={from_idx!r} is not allowed with {settings.name}; it is for mnist",
    )
    if tfds_prepare.is_prepared(builder):
        return "was there already"
    if from_idx:
        file_format = "array_record" if settings.placement == "records" else None
        tfds_prepare.prepare_mnist(folder, idx.read(paths.path_of(from_idx)), file_format)
    return "prepared"


def _describe(dataset: data.Dataset) -> dict[str, str]:
    splits = (dataset.train, dataset.validation, dataset.test)
    vectors = len(dataset.image_shape) == 1
    rows = {
        "vectors" if vectors else "images": "x".join(map(str, dataset.image_shape)),
        "examples": "{:,} to train, {:,} to validate, {:,} to test".format(*map(len, splits)),
        "numbers": _range(splits) + (" (standardised)" if dataset.scaling else ""),
    }
    names = dataset.features.names if dataset.features else range(*dataset.image_shape[:1])
    if dataset.features:
        rows["features"] = listed(dataset.features.names, limit=_MAX_NAMES)
    if dataset.notes:
        rows["read"] = f"\n{'':<13}".join(dataset.notes)
    if vectors:
        rows |= _columns(dataset, list(map(str, names)))
    labels = [split.labels[:] for split in splits if split.labels is not None]
    if labels:
        values, counts = np.unique(np.concatenate(labels), return_counts=True)
        classes = [dataset.class_names[v] for v in values] if dataset.class_names else values
        pairs = zip(classes, counts, strict=True)
        rows["labels"] = listed([f"{label}: {count:,}" for label, count in pairs], limit=_MAX_NAMES)
    rows["fingerprint"] = dataset.fingerprint()  # as in config.json
    return rows


def _columns(dataset: data.Dataset, names: list[str]) -> dict[str, str]:
    """Describes features of the training split, in the user's units: special and first ones."""
    train, scaling = dataset.train.images, dataset.scaling
    found, few = statistics.Moments.of(train), statistics.few_values(train, _MAX_CATEGORIES)
    std, mean = (scaling.std, scaling.mean) if scaling else (np.ones(len(names)), 0 * found.mean)

    def in_units(values: np.ndarray, place: int | slice = slice(None)) -> np.ndarray:
        values = values * std[place] + mean[place]
        return np.where(np.abs(values) < _ROUND_OFF * std[place], 0, values) if scaling else values

    rows = {}
    constant = np.flatnonzero(found.std == 0)
    if len(constant):
        rows["constant"] = listed([names[place] for place in constant], limit=_MAX_NAMES)
    categories = [
        f"{names[place]} ({len(values)} different)"
        for place, values in few.items()
        if 2 < len(values) <= len(train) / _ROWS_OF_CATEGORY and _are_whole(in_units(values, place))
    ]
    if dataset.features and categories:
        rows["categories"] = f"likely, yet numbers: {listed(categories, limit=_MAX_NAMES)}"
    lowest, highest, mean_in_units = map(in_units, (found.lowest, found.highest, found.mean))
    for place, name in enumerate(names[:_MAX_COLUMNS]):
        count = len(few.get(place, ()))
        kind = f"{count:,} different" if 0 < count <= _MAX_DIFFERENT else "numbers"
        rows[f"  {name}"] = (
            f"{kind} from {lowest[place]:.6g} to {highest[place]:.6g}, "
            f"mean {mean_in_units[place]:.4g}, std {found.std[place] * std[place]:.4g}"
        )
    if len(names) > _MAX_COLUMNS:
        rows["  ..."] = f"{len(names) - _MAX_COLUMNS:,} further features"
    return rows


def _are_whole(values: np.ndarray) -> bool:
    """Returns whether values are whole numbers, but for the rounding of standardised float32."""
    return bool((np.abs(values - np.rint(values)) <= _WHOLE * np.maximum(1, np.abs(values))).all())


def _range(splits: tuple[Split, ...]) -> str:
    """Describes the type, range, mean and std of all numbers."""
    lowest, highest, count, total, squares = math.inf, -math.inf, 0, 0.0, 0.0
    for split in splits:
        for block in blocks(split.images):
            lowest, highest = min(lowest, block.min()), max(highest, block.max())
            count += block.size
            total += block.sum(dtype=np.float64)
            squares += np.square(block, dtype=np.float64).sum()
    mean = total / count
    std = math.sqrt(max(squares / count - mean**2, 0))
    dtype = splits[0].images.dtype
    return f"{dtype} from {lowest:g} to {highest:g}, mean {mean:.4g}, std {std:.4g}"


def _draw(dataset: data.Dataset, name: str, path: Path) -> None:
    """Draws evenly spaced training images, sorted by label."""
    require(len(dataset.image_shape) == 3, f"--contact_sheet needs images; {name!r} holds vectors")
    images, labels = dataset.train.read(dataset.train.evenly_spaced(_SHEET_IMAGES))
    if labels is not None:
        images = images[np.argsort(labels, kind="stable")]
    step = -(-max(images.shape[1:3]) // _SHEET_PIXELS)
    images = images[:, ::step, ::step]
    figures.write_png(path, figures.grid(to_unit(images), _SHEET_COLUMNS))
