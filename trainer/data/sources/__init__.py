"""Where examples come from: each source of data by its name, not yet cut into parts."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.examples import GIB, Images, Records, allowed_bytes, blocks, empty, shared
from trainer.data.files import images as image_folders
from trainer.data.files import numpy_files, tables, tfds_records
from trainer.errors import UserError, require
from trainer.storage import paths as places

MEMORY = "memory"  # the name of vectors that are handed over, not read
_NO_FILE_SETTINGS = {"channels": 0, "fit": "stretch", "cache_dir": ""}
_NO_COLUMN_SETTINGS = {"label_column": "", "drop_columns": "", "impute": ""}
_DIGITS_IMAGES = 1797
_SIDE = 28  # pixels of a square image that is made, as of MNIST
_MOST_DECIMALS = 12  # of the number of images of noise
_NOISE_TEST_IMAGES = 1000


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set as it comes: without a test part, perhaps, and not yet cut."""

    train: Images
    test: Images | None
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()


def read(
    name: str,
    *,
    image_size: int,
    file_settings: dict[str, Any],
    column_settings: dict[str, str],
    placement: str,
    memory_gib: float,
    folder: str | None,
    vectors: np.ndarray | None,
) -> Source:
    """Reads a source into memory, or opens it where it stays in its files; all as `data.load` says.

    Raises:
      UserError: it is not known, cannot be had, or does not take one of these settings.
    """
    kind, _, argument = name.partition(":")
    for taker, of, given, unset in (
        ("images", "images:DIR", file_settings, _NO_FILE_SETTINGS),
        ("table", "table:FILE", column_settings, _NO_COLUMN_SETTINGS),
    ):
        told = [f"data.{key}={value!r}" for key, value in given.items() if value != unset[key]]
        require(
            kind == taker or not told,
            f"{', '.join(told)} is not allowed with {name!r}; it is of {of} alone",
        )
    if name in ("digits", MEMORY) or kind in ("arrays", "table") or (kind == "noise" and argument):
        require(
            placement != "records",
            f"data.placement='records' needs files of TFDS or a folder of images; {name!r} has "
            "none",
        )
    if name == "digits":
        return _digits(image_size, memory_gib)
    if name == MEMORY:
        return _memory(vectors, image_size)
    if kind == "arrays":
        return _arrays(argument, image_size, memory_gib)
    if kind == "table":
        return _table(argument, image_size, memory_gib, **column_settings)
    if kind == "images":
        return _folder(argument, image_size, placement, memory_gib, **file_settings)
    if kind == "noise" and argument:
        return _noise(argument, image_size, memory_gib)
    return Source(*tfds_records.read(name, image_size, placement, memory_gib, folder))


def names_in(drop_columns: str) -> list[str]:
    """The names of columns, as `data.load` takes them."""
    return [name.strip() for name in drop_columns.split(",") if name.strip()]


def _digits(image_size: int, memory_gib: float) -> Source:
    """1,797 handwritten digits of 8x8 pixels that come inside scikit-learn, scaled to a size."""
    from sklearn.datasets import load_digits

    size = image_size or _SIDE
    _require_room("digits", _DIGITS_IMAGES, size, memory_gib)
    digits = load_digits()
    scaled = tf.image.resize(digits.images[..., np.newaxis] / 16, (size, size), "bicubic")
    images = empty(tuple(scaled.shape))
    images[:] = tf.round(255 * tf.clip_by_value(scaled, 0, 1))
    return Source(Images(images, digits.target), None)


def _noise(number: str, image_size: int, memory_gib: float) -> Source:
    """So many images of uniform noise, and some to test: nothing to learn, a load of any size."""
    name = f"noise:{number}"
    require(
        number.isdecimal() and len(number) <= _MOST_DECIMALS and int(number) > 2,
        f"data.name={name!r} is not allowed; noise:N takes a number of images above 2",
    )
    count, size = int(number), image_size or _SIDE
    _require_room(name, count + _NOISE_TEST_IMAGES, size, memory_gib)
    generator = np.random.default_rng(0)
    parts = []
    for part_size in (count, _NOISE_TEST_IMAGES):
        images = empty((part_size, size, size, 1))
        for block in blocks(images):
            block[:] = generator.integers(0, 256, block.shape, np.uint8)
        parts.append(Images(images, None))
    return Source(parts[0], parts[1])


def _require_room(name: str, count: int, image_size: int, memory_gib: float) -> None:
    """Raises UserError where so many grey images that are to be made do not fit the memory."""
    size, allowed = count * image_size**2, allowed_bytes(memory_gib)
    require(
        size <= allowed,
        f"{name} takes {size / GIB:.1f} GiB of {allowed / GIB:.1f} GiB of memory; fewer images "
        "or a smaller data.image_size take less",
    )


def _memory(vectors: np.ndarray | None, image_size: int) -> Source:
    """The vectors of a program that trains on its own."""
    if vectors is None:
        raise UserError(
            f"data.name={MEMORY!r} are vectors that a program held in memory; "
            "in a file they are arrays:FILE.npz"
        )
    _require_no_size(image_size, "vectors keep the shape that they have")
    rows = empty(vectors.shape, np.float32)
    rows[:] = vectors
    return Source(Images(rows, None), Images(rows[:0], None))


def _arrays(file: str, image_size: int, memory_gib: float) -> Source:
    """A user's own vectors or images."""
    require(
        file != "",
        "data.name='arrays' names no file; it is written arrays:FILE.npz or arrays:FILE.npy",
    )
    _require_no_size(image_size, "arrays keep the shape that they have")
    found = numpy_files.read(places.path_of(file), allowed_bytes(memory_gib))
    parts = {}
    for name in ("train", "test"):
        if name in found:
            images = shared(found.pop(name))
            parts[name] = Images(images, found.get(f"{name}_labels"))
    return Source(parts["train"], parts.get("test"))


def _table(
    files: str,
    image_size: int,
    memory_gib: float,
    *,
    label_column: str,
    drop_columns: str,
    impute: str,
) -> Source:
    """A user's own vectors, in the rows of tables."""
    paths = [places.path_of(file) for file in files.split(",")]
    require(
        files != "" and len(paths) <= 2,
        f"data.name={'table:' + files!r} is not allowed; it is written table:FILE or "
        "table:TRAIN,TEST",
    )
    _require_no_size(image_size, "the rows of a table are vectors")
    found = tables.read(
        paths,
        label_column=label_column,
        drop_columns=names_in(drop_columns),
        keep_missing=impute != "",
        most_bytes=allowed_bytes(memory_gib),
    )
    train, *test = [Images(shared(table.rows), table.labels) for table in found.parts]
    return Source(train, test[0] if test else None, found.feature_names, found.class_names)


def _folder(
    folder: str,
    image_size: int,
    placement: str,
    memory_gib: float,
    *,
    channels: int,
    fit: str,
    cache_dir: str,
) -> Source:
    """A user's own images, in the file where they are kept decoded, or in memory if they fit."""
    require(folder != "", "data.name='images' names no folder; it is written images:DIR")
    decoder = image_folders.Decoder(image_size, channels, fit)
    found = image_folders.read(places.path_of(folder), decoder, cache_dir)
    allowed = allowed_bytes(memory_gib)
    fits = found.images.nbytes <= allowed
    require(
        fits or placement in ("auto", "records"),
        f"data.placement={placement!r} is not allowed; the images of {folder} take "
        f"{found.images.nbytes / GIB:.1f} GiB of {allowed / GIB:.1f} GiB of memory; auto leaves "
        "them in their file",
    )
    names = np.array(found.files, object)

    def part(rows: slice) -> Images:
        images: np.ndarray | Records
        if fits and placement != "records":
            images = empty(found.images[rows].shape)
            for ours, theirs in zip(blocks(images), blocks(found.images[rows]), strict=True):
                ours[:] = theirs
        else:
            numbers = np.arange(len(found.files), dtype=np.int32)
            images = Records(found.images.__getitem__, numbers[rows])
        labels = None if found.labels is None else found.labels[rows].copy()
        return Images(images, labels, names[rows].copy())

    train = part(slice(found.train_count))
    test = part(slice(found.train_count, None)) if found.has_test else None
    return Source(train, test, class_names=found.class_names)


def _require_no_size(image_size: int, why: str) -> None:
    require(image_size == 0, f"data.image_size={image_size} is not allowed; {why}")
