"""Prepares a source's examples for training: splits, binarises, imputes, standardises.

Splitting and binarisation draw the same numbers in every run, whatever the run's seed, so that all
runs are validated and tested on the same examples.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer import positions
from trainer.config import Data, keys
from trainer.data import sources, statistics
from trainer.data.dataset import Dataset, Records, Scaling, Split, fill_in, to_unit
from trainer.data.memory import (
    BLOCK_ROWS,
    aligned_copy,
    aligned_empty,
    allowed_bytes,
    blocks,
    require_fits,
)
from trainer.errors import UserError, require
from trainer.storage import paths

_SEED = 0
_TEST_FRACTION = 0.2  # of the training examples, if a source has no test split
_LARGEST = 1e18  # of a value, whose square float32 holds
_BINARISED_ROWS = 512  # at a time: each pixel takes a random number


def make_dataset(splits: sources.Splits, settings: Data) -> Dataset:
    """Splits and preprocesses a source's examples, partly in place.

    Arrays that are mapped from a file or cannot be written are copied first.

    Raises:
      UserError: a split would be empty, the copies do not fit in memory, or the examples cannot be
        binarised, imputed or standardised.
    """
    splits = _writable(splits, settings)
    train, test = splits.train, splits.test
    if settings.binarise:
        train = _binarise(train, "train", settings.name)
        test = None if test is None else _binarise(test, "test", settings.name)
    validation = splits.validation
    if validation is not None and settings.binarise:
        validation = _binarise(validation, "validation", settings.name)
    if test is None:
        train, test = _split(train, _TEST_FRACTION, settings.name)
    if settings.resplit_test:
        train, test = _split(test, settings.resplit_test, settings.name, "data.resplit_test")
        validation = None
    if validation is None:
        fraction, key = settings.validation_fraction, "data.validation_fraction"
        train, validation = _split(train, fraction, settings.name, key)
    all_splits: tuple[Split, ...] = (train, validation, test)
    features, fill, scaling, notes = splits.features, None, None, splits.notes
    if features and splits.impute:
        allowed = allowed_bytes(settings.memory_gib)
        all_splits, fill = _impute(all_splits, features.names, splits.impute, allowed)
    if settings.standardise or len(train.images.shape) == 2:
        all_splits, scaling, more = _scale(all_splits, splits, settings)
        notes += more
    train, validation, test = all_splits
    return Dataset(train, validation, test, scaling, features, splits.class_names, fill, notes)


def _writable(splits: sources.Splits, settings: Data) -> sources.Splits:
    """Copies memory maps and read-only arrays.

    Preprocessing writes in place, and would change the user's file.
    """
    named = {name: getattr(splits, name) for name in paths.SPLITS}
    given: dict[str, Split] = {name: split for name, split in named.items() if split is not None}
    columns: list[Any] = []
    for split in given.values():
        columns += [split.images, split.labels, split.file_names, *split.ids.values()]
    size = sum(column.nbytes for column in columns if _needs_copy(column))
    require_fits(f"a copy of {settings.name!r}", size, allowed_bytes(settings.memory_gib))

    def own(column: Any) -> Any:
        return np.array(column) if _needs_copy(column) else column

    def own_split(split: Split) -> Split:
        images: Any = split.images
        images = aligned_copy(images) if _needs_copy(images) else images
        ids = {name: own(column) for name, column in split.ids.items()}
        return Split(images, own(split.labels), own(split.file_names), ids)

    copied: dict[str, Any] = {name: own_split(split) for name, split in given.items()}
    return dataclasses.replace(splits, **copied)


def _needs_copy(array: Any) -> bool:
    """Returns whether an array is a view of a memory map, or cannot be written."""
    if not isinstance(array, np.ndarray):
        return False
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap) or not array.flags.writeable


def _split(examples: Split, fraction: float, name: str, key: str = "") -> tuple[Split, Split]:
    """Splits off a random fraction of the examples; both splits reuse the memory of the whole.

    `name` and `key` say in a message which data they are, and which key sets the fraction.
    """
    count = round(fraction * len(examples))
    what = f"{key}={fraction}" if key else f"a test split of {fraction}"
    way_out = f"take another {key}" if key else "give the data a test split"
    require(
        0 < count < len(examples),
        f"{name!r} has too few examples: {what} of {len(examples):,} examples leaves an "
        f"empty split; add examples, or {way_out}",
    )
    held_out = np.zeros(len(examples), bool)
    held_out[positions.permutation(_SEED, 0, len(examples))[:count]] = True
    columns = {"images": examples.images, "labels": examples.labels}
    columns |= {"file_names": examples.file_names, **examples.ids}
    pairs: dict[str, tuple[Any, Any]] = {
        name: (None, None) if rows is None else _split_rows(rows, held_out)
        for name, rows in columns.items()
    }

    def side(number: int) -> Split:
        rows = {name: pair[number] for name, pair in pairs.items()}
        images, labels, file_names = (rows.pop(name) for name in ("images", "labels", "file_names"))
        return Split(images, labels, file_names, rows)

    return side(0), side(1)


def _split_rows(rows, held_out: np.ndarray):
    """Returns the rows that are kept and the rows held out, each in their order."""
    if isinstance(rows, Records):
        return rows.subset(~held_out), rows.subset(held_out)
    held = rows[held_out]
    kept = np.flatnonzero(~held_out)
    for start in range(0, len(kept), BLOCK_ROWS):  # in place: a second copy may not fit
        block = kept[start : start + BLOCK_ROWS]
        rows[start : start + len(block)] = rows[block]
    rows[len(kept) :] = held
    return rows[: len(kept)], rows[len(kept) :]


def _binarise(split: Split, split_name: str, name: str) -> Split:
    """Sets each pixel to 255 with its intensity as the probability, else to 0."""
    images = split.images
    if isinstance(images, Records):
        raise UserError(
            f"data.binarise=True needs the images in memory, but {name!r} stays in its files"
        )
    require(images.ndim == 4, f"data.binarise=True needs images; {name!r} holds vectors")
    binary = images if images.dtype == np.uint8 else aligned_empty(images.shape)
    for start in range(0, len(images), _BINARISED_ROWS):
        block = images[start : start + _BINARISED_ROWS]
        noise = positions.Noise(_SEED, start, len(block))
        threshold = noise.uniform(f"binarisation of {split_name}", images.shape[1:]).numpy()
        binary[start : start + len(block)] = np.where(threshold < to_unit(block), 255, 0)
    return dataclasses.replace(split, images=binary)


def _impute(
    splits: tuple[Split, ...], feature_names: tuple[str, ...], how: str, allowed: float
) -> tuple[tuple[Split, ...], np.ndarray]:
    """Replaces missing values, NaN, by the feature's mean or median in the training split.

    scikit-learn's SimpleImputer would sum float32 numbers in float32: around 1e6, the mean of
    20,000 numbers is wrong by 200.
    """
    statistic, fill = np.nanmean if how == "mean" else np.nanmedian, []
    columns = statistics.columns(splits[0].images, allowed)
    for name, column in zip(feature_names, columns, strict=True):
        require(
            not np.isnan(column).all(),
            f"data.impute={how!r} needs a number in each column of the training split; "
            f"{name!r} has none",
        )
        fill.append(statistic(column.astype(np.float64)))
    found = np.array(fill)
    return tuple(_mapped(split, lambda rows: fill_in(rows, found)) for split in splits), found


def _scale(
    splits: tuple[Split, ...], source: sources.Splits, settings: Data
) -> tuple[tuple[Split, ...], Scaling | None, tuple[str, ...]]:
    """Standardises vectors if that is set; returns notes on their scale and rounding too."""
    rows, scaling = splits[0].images, None
    name = settings.name
    require(len(rows.shape) == 2, f"data.standardise=True needs vectors; {name!r} holds images")
    names = source.features.names if source.features else tuple(map(str, range(rows.shape[1])))
    if settings.standardise:
        moments = statistics.Moments.of(rows)
        notes = statistics.rounding_note(moments, names)
        splits, scaling = _standardise(splits, moments)
        if source.offset is not None:
            scaling = dataclasses.replace(scaling, mean=scaling.mean + source.offset)
    else:
        notes = statistics.scale_note(rows, names)
    unit, advice = " stds from its mean" if scaling else "", ""
    if "missing" in keys(type(settings)):
        advice = "; data.missing names numbers that mean missing values in a table"
    for split in splits:
        if isinstance(split.images, np.ndarray):
            _require_squares(split.images, names, unit, advice)
    return splits, scaling, notes


def _standardise(
    splits: tuple[Split, ...], moments: statistics.Moments
) -> tuple[tuple[Split, ...], Scaling]:
    """Scales vectors by mean and std of the training split; only shifts constant features.

    scikit-learn's StandardScaler would scale float32 numbers in float32: if the mean is 1e6 stds,
    the third digit is wrong.
    """
    scaling = Scaling(moments.mean, np.where(moments.std == 0, 1, moments.std))
    return tuple(_mapped(split, scaling.apply) for split in splits), scaling


def _require_squares(rows: np.ndarray, names: tuple[str, ...], unit: str, advice: str) -> None:
    """Raises UserError if a vector [N, D] has a value whose square float32 cannot hold."""
    for block in blocks(rows):
        row, column = np.unravel_index(np.abs(block).argmax(), block.shape)
        require(
            bool(abs(block[row, column]) < _LARGEST),
            f"feature {names[column]!r} has a value of {block[row, column]:.3g}{unit}; allowed: "
            f"below {_LARGEST:g}{advice}",
        )


def _mapped(split: Split, function: Callable[[np.ndarray], np.ndarray]) -> Split:
    """Applies a function of vectors [n, D] to a split, in place if it is in memory."""
    if isinstance(split.images, Records):
        return dataclasses.replace(split, images=split.images.map(function))
    for block in blocks(split.images):
        block[:] = function(block)
    return split
