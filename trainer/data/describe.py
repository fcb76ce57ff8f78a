"""A data set, checked and described before a long run; one of TFDS is prepared in a folder first.

So it is for machines that cannot download it.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer import data
from trainer.data.examples import Images, blocks, to_unit
from trainer.data.files import idx, tfds_sets
from trainer.errors import require
from trainer.monitoring import figures
from trainer.storage import paths

_VALIDATION_FRACTION = 0.05  # as configs/base.py has it, and so most runs
_OWN_KINDS = ("digits", "noise", "arrays", "images", "table")
_SHEET_IMAGES = 100  # at most
_SHEET_COLUMNS = 10
_SHEET_PIXELS = 128  # that the side of an image may take; of a larger one, some are left out
_NAMES_SHOWN = 12


def prepare(
    name: str,
    folder: str | None = None,
    *,
    from_idx: str = "",
    records: bool = False,
    contact_sheet: str = "",
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Reads a data set as a training would, and returns what is to be said of it, for a person.

    One of TFDS is prepared in `folder` (None: in that of TFDS_DATA_DIR), unless it is there.
    `from_idx` is the folder of MNIST's four original files, in place of a download; `records`
    prepares ArrayRecord files, which are read as the images are drawn. `contact_sheet` is the PNG
    file to which some of the training images are drawn, sorted by their labels; one that is there
    is replaced where `overwrite`. `settings` are those of `data.load`.

    Raises:
      UserError: it cannot be had, or not be read; one of the files is not what it should be; there
        is a contact sheet already, or it cannot be drawn.
    """
    paths.check_picture("--contact_sheet", contact_sheet, overwrite=overwrite)
    settings = {"image_size": 0, "validation_fraction": _VALIDATION_FRACTION} | dict(settings or {})
    of_tfds = name.partition(":")[0] not in _OWN_KINDS
    for flag, value in {"data_dir": folder, "from_idx": from_idx, "records": records}.items():
        require(
            of_tfds or not value,
            f"--{flag} is not allowed with {name!r}; it is of data sets of TFDS alone",
        )
    done = _fetch(name, folder, from_idx, records) if of_tfds else ""
    if records:
        settings["placement"] = "records"
    dataset = data.load(name, folder=folder, **settings)
    rows = {"data set": name}
    if of_tfds:
        info = tfds_sets.find(name, folder).info
        rows = {
            "data set": f"{info.name} {info.version}, {done}",
            "splits": ", ".join(
                f"{split} {of.num_examples:,}" for split, of in info.splits.items()
            ),
        }
    rows |= _described(dataset)
    if contact_sheet:
        _draw(dataset, name, paths.path_of(contact_sheet))
        rows["sheet"] = contact_sheet
    if folder is not None:
        rows |= {"folder": folder, "to use it": f"TFDS_DATA_DIR={shlex.quote(folder)}"}
    return "\n".join(f"{key:<12} {value}" for key, value in rows.items())


def _fetch(name: str, folder: str | None, from_idx: str, records: bool) -> str:
    """Prepares MNIST of its files, if they are told; what `data.load` is to find, in words."""
    builder = tfds_sets.find(name, folder)
    require(
        not from_idx or builder.name == "mnist",
        f"from_idx={from_idx!r} is not allowed with {name}; it is of mnist alone",
    )
    if tfds_sets.is_prepared(builder):
        return "was there already"
    if from_idx:
        contents = idx.read(paths.path_of(from_idx))
        tfds_sets.prepare_mnist(folder, contents, "array_record" if records else None)
    return "prepared"


def _described(dataset: data.Dataset) -> dict[str, str]:
    """What there is to say of the parts together; of what is constant, of the training part."""
    parts = (dataset.train, dataset.validation, dataset.test)
    vectors = len(dataset.image_shape) == 1
    rows = {
        "vectors" if vectors else "images": "x".join(map(str, dataset.image_shape)),
        "parts": "{:,} to train on, {:,} to validate, {:,} to test".format(*map(len, parts)),
        "numbers": _range(parts),
    }
    if dataset.feature_names:
        rows["features"] = _some(dataset.feature_names)
    if vectors:
        vectors_trained_on = dataset.train.images[:]
        constant = np.flatnonzero(vectors_trained_on.min(axis=0) == vectors_trained_on.max(axis=0))
        names = dataset.feature_names or range(*dataset.image_shape)
        if len(constant):
            rows["constant"] = _some([str(names[number]) for number in constant])
    labels = [part.labels[:] for part in parts if part.labels is not None]
    if labels:
        values, counts = np.unique(np.concatenate(labels), return_counts=True)
        classes = (
            [dataset.class_names[value] for value in values] if dataset.class_names else values
        )
        rows["labels"] = _some(
            [f"{label}: {count:,}" for label, count in zip(classes, counts, strict=True)]
        )
    rows["fingerprint"] = dataset.fingerprint()  # as config.json has it
    return rows


def _range(parts: tuple[Images, ...]) -> str:
    """The least and the largest number, mean and deviation."""
    dtype = parts[0].images.dtype
    moments = [
        (
            block.min(),
            block.max(),
            block.size,
            block.sum(dtype=np.float64),
            np.square(block, dtype=np.float64).sum(),
        )
        for part in parts
        for block in blocks(part.images)
    ]
    lowest, highest, sizes, sums, squares = map(np.array, zip(*moments, strict=True))
    mean = sums.sum() / sizes.sum()
    deviation = math.sqrt(max(squares.sum() / sizes.sum() - mean**2, 0))
    return (
        f"{dtype} from {lowest.min():g} to {highest.max():g}, mean {mean:.4g}, "
        f"deviation {deviation:.4g}"
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _draw(dataset: data.Dataset, name: str, path: Path) -> None:
    """Draws training images, evenly spread, in the order of their labels."""
    require(len(dataset.image_shape) == 3, f"--contact_sheet needs images; {name!r} holds vectors")
    images, labels = dataset.train.read(_SHEET_IMAGES)
    if labels is not None:
        images = images[np.argsort(labels, kind="stable")]
    step = -(-max(images.shape[1:3]) // _SHEET_PIXELS)
    images = images[:, ::step, ::step]
    figures.write_png(path, figures.grid(to_unit(images), _SHEET_COLUMNS))
