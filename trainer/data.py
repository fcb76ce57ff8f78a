"""Where images come from, and how positions turn them into tf.data batches."""

import dataclasses
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import psutil
import tensorflow as tf

from trainer import arrays, image_folders, places, positions, tables, tfds_sets
from trainer.errors import UserError, require, require_at_least, require_choice

MEMORY = "memory"  # the name of vectors that are handed over, not read
_SPLIT_SEED = 0  # every run, whatever its seed, is validated and tested on the same images
_TEST_FRACTION = 0.2  # cut from the training images where a data set brings no test images
_FINGERPRINT_IMAGES = 100_000  # of a part; a larger one is told by so many, evenly spread
_MEMORY_SHARE = 0.8  # of the host's free memory, that images may fill
_PLACEMENTS = ("auto", "device", "host", "records")
_OF_FILES = {"channels": 0, "fit": "stretch", "cache_dir": ""}  # what others leave as it is
_OF_COLUMNS = {"label_column": "", "drop_columns": "", "impute": ""}  # likewise
_LARGEST_SIDE = 16_384  # pixels of a square that images are made
_DIGITS = 1797
_MOST_DIGITS = 12  # of the number of images of noise
_NOISE_TEST_IMAGES = 1000
_ROWS = 4096  # read, moved or made at a time
_DRAWN_ROWS = 512  # of images at a time, that take a number for each pixel
_ALIGNMENT = 64  # bytes, that let TensorFlow share an array's memory
_GIB = 2**30


class Records:
    """Rows that stay in files, and are read when they are indexed.

    Serves as an array [N, ...] does, of `shape` and `dtype`, by slices and by integer arrays.
    """

    def __init__(self, read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray):
        """Takes what reads rows [n, ...] by their numbers [n] in the files, and the numbers [N]."""
        self._read = read
        self._rows = rows
        first = self[:1]
        self.shape = (len(self._rows), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        numbers = self._rows[chosen]
        read = self._read(numbers.ravel())
        return read.reshape(*numbers.shape, *read.shape[1:])

    def subset(self, chosen: np.ndarray) -> "Records":
        """The rows that a mask [N] chooses, still to be read."""
        return Records(self._read, self._rows[chosen])


@dataclasses.dataclass(frozen=True)
class Images:
    """Images [N, H, W, C], uint8 or float in [0, 1], and their labels [N] where there are any.

    Vectors, float32 [N, D] of any numbers, stand in the place of images where a user brings some.
    """

    images: np.ndarray | Records
    labels: np.ndarray | Records | None
    file_names: np.ndarray | None = None  # str [N], of images in a folder

    def __len__(self) -> int:
        return len(self.images)

    def read(self, most: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """All images and labels in memory, or so many at most, evenly spread."""
        chosen: slice | np.ndarray = slice(None)
        if most is not None and len(self) > most:
            chosen = np.linspace(0, len(self) - 1, most).astype(int)
        return self.images[chosen], None if self.labels is None else self.labels[chosen]


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How vectors [., D] are standardised: by these means and deviations, float64 [D]."""

    mean: np.ndarray
    deviation: np.ndarray

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors in a user's units to those that a model sees, float32."""
        return ((vectors - self.mean) / self.deviation).astype(np.float32)

    def undo(self, vectors: np.ndarray) -> np.ndarray:
        """What a model says back to the user's units, float32."""
        return (vectors * self.deviation + self.mean).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The three parts of a data set; no image is in two of them."""

    train: Images
    validation: Images
    test: Images
    scaling: Scaling | None = None  # of vectors that are standardised
    feature_names: tuple[str, ...] = ()  # of a table's vectors
    class_names: tuple[str, ...] = ()  # by their labels, where the source names them
    fill: np.ndarray | None = None  # float64 [D], what stands in a table for missing numbers

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C), or (D,) of vectors."""
        return tuple(self.train.images.shape[1:])

    def inputs(self) -> dict[str, list]:
        """What a model's inputs are like, for its workdir; `scaling_of` reads it.

        `fill` is in a user's units, as `mean` and `deviation` are.
        """
        inputs: dict[str, list] = {"image_shape": list(self.image_shape)}
        for name in ("feature_names", "class_names"):
            if getattr(self, name):
                inputs[name] = list(getattr(self, name))
        if self.fill is not None:
            inputs["fill"] = self.fill.tolist()
        if self.scaling is not None:
            inputs |= {name: array.tolist() for name, array in vars(self.scaling).items()}
        return inputs

    def fingerprint(self) -> str:
        """A digest of the images, their labels and the part they are in, as hexadecimal digits.

        Of a part of more than 100,000 images, as many are taken.
        """
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            told = np.linspace(0, len(part) - 1, min(len(part), _FINGERPRINT_IMAGES)).astype(int)
            for array in (part.images, part.labels):
                if array is not None:
                    digest.update(f"{array.shape} {array.dtype}".encode())
                    for start in range(0, len(told), _ROWS):
                        digest.update(np.ascontiguousarray(array[told[start : start + _ROWS]]).data)
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class _Source:
    """A data set as it comes: without a test part, perhaps, and not yet cut."""

    train: Images
    test: Images | None
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()


def load(
    name: str,
    *,
    image_size: int,
    validation_fraction: float,
    channels: int = 0,
    fit: str = "stretch",
    cache_dir: str = "",
    label_column: str = "",
    drop_columns: str = "",
    impute: str = "",
    placement: str = "auto",
    memory_gib: float = 0.0,
    resplit_test: float = 0.0,
    standardise: bool = False,
    binarise: bool = False,
    folder: str | None = None,
    vectors: np.ndarray | None = None,
) -> Dataset:
    """Reads a data set into memory, or opens it where it is too large for that.

    "digits", "noise:N", "arrays:FILE" as `arrays.read` takes it, "images:DIR" as
    `image_folders.read` does with `channels`, `fit` and `cache_dir`, "table:FILE" or
    "table:TRAIN,TEST" as `tables.read` does, or an image data set of TFDS by name, in `folder`
    (None: in that of TFDS_DATA_DIR). One of TFDS that is not there is downloaded, by the first
    process that asks. One of TFDS or of a folder that is larger than `memory_gib` (0: most of the
    host's free memory), or placed in "records", stays in its files. "memory" are the `vectors`,
    finite numbers [N, D], which are copied; none of them are held out to test.

    The columns of a table are features but for `label_column` and the `drop_columns`, with commas
    between; `impute` fills in missing numbers by the "mean" or "median" of the training part alone.

    Where `resplit_test` is not 0, the test examples alone are used, brought or cut as they are:
    that share of them to test, the others to train and to validate. `standardise` shifts and scales
    each feature of vectors to mean 0 and standard deviation 1 over the training part alone; one
    that is constant there is shifted only. `binarise` makes each pixel 255 with its intensity as
    the probability, else 0: one draw for each image of a data set, the same in every run.

    Raises:
      UserError: it is not known, cannot be had, holds no images of one shape, or such images cannot
        be standardised or binarised.
    """
    require(
        0 < validation_fraction < 1,
        f"data.validation_fraction={validation_fraction} is not allowed; "
        "it must lie between 0 and 1",
    )
    require(
        0 <= resplit_test < 1,
        f"data.resplit_test={resplit_test} is not allowed; it must be at least 0 and below 1",
    )
    require(
        0 <= image_size <= _LARGEST_SIDE,
        f"data.image_size={image_size} is not allowed; it must be from 0 to {_LARGEST_SIDE}",
    )
    require_choice("data.placement", placement, _PLACEMENTS)
    require_choice("data.channels", channels, (0, 1, 3))
    require_at_least("data.memory_gib", memory_gib, 0)
    require(
        impute in ("", "mean", "median"),
        f"data.impute={impute!r} is not known; allowed: mean, median, or '': none is missing",
    )
    kind, _, argument = name.partition(":")
    of_files = {"channels": channels, "fit": fit, "cache_dir": cache_dir}
    of_columns = {"label_column": label_column, "drop_columns": drop_columns, "impute": impute}
    require(kind == "images" or of_files == _OF_FILES, _of_another("images:DIR", name, of_files))
    require(
        kind == "table" or of_columns == _OF_COLUMNS, _of_another("table:FILE", name, of_columns)
    )
    if name in ("digits", MEMORY) or kind in ("arrays", "table") or (kind == "noise" and argument):
        require(
            placement != "records",
            f"data.placement='records' needs files of TFDS or a folder of images; {name!r} has "
            "none",
        )
    source: _Source
    if name == "digits":
        _require_room(name, _DIGITS, image_size, memory_gib)
        source = _digits(image_size or 28)
    elif kind == "arrays":
        source = _arrays(argument, image_size, memory_gib)
    elif name == MEMORY:
        source = _memory(vectors, image_size)
    elif kind == "table":
        source = _table(argument, image_size, memory_gib, **of_columns)
    elif kind == "images":
        decoder = image_folders.Decoder(image_size, channels, fit)
        source = _folder(argument, decoder, cache_dir, placement, memory_gib)
    elif kind == "noise" and argument:
        require(
            argument.isdecimal() and len(argument) <= _MOST_DIGITS and int(argument) > 2,
            f"data.name={name!r} is not allowed; noise:N takes a number of images above 2",
        )
        _require_room(name, int(argument) + _NOISE_TEST_IMAGES, image_size, memory_gib)
        source = _noise(int(argument), image_size or 28)
    else:
        source = _tfds(name, image_size, placement, memory_gib, folder)
    train, test = source.train, source.test
    if binarise:
        train = _binarised(train, "train", name)
        test = None if test is None else _binarised(test, "test", name)
    if test is None:
        train, test = _cut(train, _TEST_FRACTION)
    if resplit_test:
        train, test = _cut(test, resplit_test)
    train, validation = _cut(train, validation_fraction)
    parts = (train, validation, test)
    fill = _impute(*parts, source.feature_names, impute) if impute else None
    scaling = _standardise(*parts, name) if standardise else None
    return Dataset(*parts, scaling, source.feature_names, source.class_names, fill)


def _of_another(taker: str, name: str, settings: Mapping[str, object]) -> str:
    """What is said of settings that another kind of data alone takes."""
    unset = _OF_FILES | _OF_COLUMNS
    given = [f"data.{key}={value!r}" for key, value in settings.items() if value != unset[key]]
    return f"{', '.join(given)} is not allowed with {name!r}; it is of {taker} alone"


def batches(
    images: np.ndarray | Records,
    step_ranges: Iterable[tuple[int, int]],
    most_steps: int,
    batch_size: int,
    seed: int,
    *,
    numbers: bool,
    own: slice = slice(None),
) -> tf.data.Dataset:
    """The run's training batches, K steps at a time.

    Each element is (first step, K, drawn [most_steps, B, ...]) for one of the `step_ranges`
    (first, last), K = last - first; step k draws positions kB to (k + 1)B - 1, of which a worker
    of several takes its `own`. What is drawn are the images [H, W, C], or their `numbers` where a
    device holds them; rows beyond K are zeros.
    """
    own_size = len(range(batch_size)[own])
    row_shape = (own_size, *(() if numbers else images.shape[1:]))
    dtype = np.int32 if numbers else images.dtype

    ranges = iter(step_ranges)

    def draw(_) -> tuple[np.int64, np.int32, np.ndarray]:
        first, last = next(ranges, (0, 0))
        count = last - first
        drawn = positions.examples(seed, first * batch_size, count * batch_size, len(images))
        drawn = drawn.reshape(count, batch_size)[:, own]
        rows = np.zeros((most_steps, *row_shape), dtype)
        if count:  # files cannot be asked for no example
            rows[:count] = drawn if numbers else images[drawn]
        return np.int64(first), np.int32(count), rows

    def call(number):
        first, count, rows = tf.numpy_function(draw, [number], (tf.int64, tf.int32, dtype))
        rows.set_shape([most_steps, *row_shape])
        return first, count, rows

    # Not from_generator: while one is open, XLA's loops run at two thirds of their speed on a CPU.
    calls = tf.data.Dataset.range(sys.maxsize).map(call)
    return calls.take_while(lambda _, count, __: count > 0).prefetch(2)


def names_in(drop_columns: str) -> list[str]:
    """The names of columns, as `load` takes them."""
    return [name.strip() for name in drop_columns.split(",") if name.strip()]


def scaling_of(inputs: Mapping[str, list]) -> Scaling | None:
    """The scaling that `Dataset.inputs` told of, if there is one."""
    if "mean" not in inputs:
        return None
    mean, deviation = (np.array(inputs[name], np.float64) for name in ("mean", "deviation"))
    return Scaling(mean, deviation)


def fill_in(vectors: np.ndarray, fill: np.ndarray) -> None:
    """Puts `fill` [D] in the place of what is missing, NaN, in vectors [., D]."""
    np.copyto(vectors, fill.astype(np.float32), where=np.isnan(vectors))


def to_unit(images: np.ndarray) -> np.ndarray:
    """Images as float32 in [0, 1]; vectors as they are."""
    return images / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)


def _cut(whole: Images, fraction: float) -> tuple[Images, Images]:
    """Two parts, the second a random `fraction` of the whole, whose memory they take over."""
    size = round(fraction * len(whole))
    require(
        0 < size < len(whole),
        f"{len(whole)} examples cannot give up a share of {fraction}; one part is empty",
    )
    held_out = np.zeros(len(whole), bool)
    held_out[positions.permutation(_SPLIT_SEED, 0, len(whole))[:size]] = True
    columns = [
        (None, None) if array is None else _split(array, held_out)
        for array in (whole.images, whole.labels, whole.file_names)
    ]
    kept, held = zip(*columns, strict=True)
    return Images(*kept), Images(*held)


def _split(array, held_out: np.ndarray):
    """The rows that stay, in their order, and those held out."""
    if isinstance(array, Records):
        return array.subset(~held_out), array.subset(held_out)
    held = array[held_out]
    kept = np.flatnonzero(~held_out)
    for start in range(0, len(kept), _ROWS):  # in place: a second copy may not fit
        block = kept[start : start + _ROWS]
        array[start : start + len(block)] = array[block]
    array[len(kept) :] = held
    return array[: len(kept)], array[len(kept) :]


def _binarised(part: Images, which: str, name: str) -> Images:
    """Images of 0 and 255, drawn by their numbers in that part of the data set."""
    images = part.images
    if isinstance(images, Records):
        raise UserError(
            f"data.binarise=True needs the images in memory, but {name!r} stays in its files"
        )
    require(
        images.ndim == 4,
        f"data.binarise=True needs images, of pixels in [0, 1]; {name!r} holds vectors",
    )
    binary = images if images.dtype == np.uint8 else empty(images.shape)
    for start in range(0, len(images), _DRAWN_ROWS):
        block = images[start : start + _DRAWN_ROWS]
        noise = positions.Noise(_SPLIT_SEED, start, len(block))
        drawn = noise.uniform(f"binarisation of {which}", images.shape[1:]).numpy()
        binary[start : start + len(block)] = np.where(drawn < to_unit(block), 255, 0)
    return dataclasses.replace(part, images=binary)


def _impute(
    train: Images, validation: Images, test: Images, names: tuple[str, ...], how: str
) -> np.ndarray:
    """Fills in what is missing, NaN, in place, by each feature's mean or median in training."""
    rows = train.images[:]
    empty_features = np.flatnonzero(np.isnan(rows).all(axis=0))
    require(
        not len(empty_features),
        f"data.impute={how!r} needs a number in each column of the training part; "
        f"{names[empty_features[0]] if len(empty_features) else ''!r} has none",
    )
    middle = np.nanmean if how == "mean" else np.nanmedian
    fill = np.array([middle(column.astype(np.float64)) for column in rows.T])
    for part in (train, validation, test):
        for block in _blocks(part.images):
            fill_in(block, fill)
    return fill


def _standardise(train: Images, validation: Images, test: Images, name: str) -> Scaling:
    """Shifts and scales the vectors in place, by mean and deviation of the training part."""
    rows = train.images
    if isinstance(rows, Records) or rows.ndim > 2:
        raise UserError(f"data.standardise=True needs vectors; {name!r} holds images")
    lowest, highest = rows.min(axis=0), rows.max(axis=0)
    mean = rows.mean(axis=0, dtype=np.float64)
    squares = sum(np.square(block - mean).sum(axis=0) for block in _blocks(rows))
    deviation = np.sqrt(squares / len(rows))
    # A constant's deviation is not 0 but for rounding.
    scaling = Scaling(mean, np.where(lowest < highest, deviation, 1))
    for part in (train, validation, test):
        for block in _blocks(part.images):
            block[:] = scaling.apply(block)
    return scaling


def _blocks(rows: np.ndarray | Records) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def empty(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """An array whose memory TensorFlow can share."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _arrays(file: str, image_size: int, memory_gib: float) -> _Source:
    """A user's own vectors or images."""
    require(
        file != "",
        "data.name='arrays' names no file; it is written arrays:FILE.npz or arrays:FILE.npy",
    )
    _require_no_size(image_size, "arrays keep the shape that they have")
    found = arrays.read(places.path_of(file), allowed_bytes(memory_gib))
    parts = {}
    for name in ("train", "test"):
        if name in found:
            images = _shared(found.pop(name))
            parts[name] = Images(images, found.get(f"{name}_labels"))
    return _Source(parts["train"], parts.get("test"))


def _memory(vectors: np.ndarray | None, image_size: int) -> _Source:
    """The vectors of a program that trains on its own."""
    if vectors is None:
        raise UserError(
            f"data.name={MEMORY!r} are vectors that a program held in memory; "
            "in a file they are arrays:FILE.npz"
        )
    _require_no_size(image_size, "vectors keep the shape that they have")
    rows = empty(vectors.shape, np.float32)
    rows[:] = vectors
    return _Source(Images(rows, None), Images(rows[:0], None))


def _table(
    files: str,
    image_size: int,
    memory_gib: float,
    *,
    label_column: str,
    drop_columns: str,
    impute: str,
) -> _Source:
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
    train, *test = [Images(_shared(table.rows), table.labels) for table in found.parts]
    return _Source(train, test[0] if test else None, found.feature_names, found.class_names)


def _require_no_size(image_size: int, why: str) -> None:
    require(image_size == 0, f"data.image_size={image_size} is not allowed; {why}")


def _shared(array: np.ndarray) -> np.ndarray:
    """A copy whose memory TensorFlow can share."""
    copy = empty(array.shape, array.dtype.type)
    copy[:] = array
    return copy


def _folder(
    folder: str,
    decoder: image_folders.Decoder,
    cache_dir: str,
    placement: str,
    memory_gib: float,
) -> _Source:
    """A user's own images, in the file where they are kept decoded, or in memory if they fit."""
    require(folder != "", "data.name='images' names no folder; it is written images:DIR")
    found = image_folders.read(places.path_of(folder), decoder, cache_dir)
    allowed = allowed_bytes(memory_gib)
    fits = found.images.nbytes <= allowed
    require(
        fits or placement in ("auto", "records"),
        f"data.placement={placement!r} is not allowed; the images of {folder} take "
        f"{found.images.nbytes / _GIB:.1f} GiB of {allowed / _GIB:.1f} GiB of memory; auto leaves "
        "them in their file",
    )
    names = np.array(found.files, object)

    def part(rows: slice) -> Images:
        images: np.ndarray | Records
        if fits and placement != "records":
            images = empty(found.images[rows].shape)
            for ours, theirs in zip(_blocks(images), _blocks(found.images[rows]), strict=True):
                ours[:] = theirs
        else:
            numbers = np.arange(len(found.files), dtype=np.int32)
            images = Records(found.images.__getitem__, numbers[rows])
        labels = None if found.labels is None else found.labels[rows].copy()
        return Images(images, labels, names[rows].copy())

    train = part(slice(found.train_count))
    test = part(slice(found.train_count, None)) if found.has_test else None
    return _Source(train, test, class_names=found.class_names)


def _require_room(name: str, count: int, image_size: int, memory_gib: float) -> None:
    """Raises UserError where so many grey images that are to be made do not fit the memory."""
    size, allowed = count * (image_size or 28) ** 2, allowed_bytes(memory_gib)
    require(
        size <= allowed,
        f"{name} takes {size / _GIB:.1f} GiB of {allowed / _GIB:.1f} GiB of memory; fewer images "
        "or a smaller data.image_size take less",
    )


def _digits(size: int) -> _Source:
    """1,797 handwritten digits of 8x8 pixels that come inside scikit-learn, scaled to a size."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    scaled = tf.image.resize(digits.images[..., np.newaxis] / 16, (size, size), "bicubic")
    images = empty(tuple(scaled.shape))
    images[:] = tf.round(255 * tf.clip_by_value(scaled, 0, 1))
    return _Source(Images(images, digits.target), None)


def _noise(count: int, size: int) -> _Source:
    """So many images of uniform noise, and some to test: nothing to learn, a load of any size."""
    generator = np.random.default_rng(0)
    parts = []
    for part_size in (count, _NOISE_TEST_IMAGES):
        images = empty((part_size, size, size, 1))
        for start in range(0, part_size, _ROWS):
            block = images[start : start + _ROWS]
            block[:] = generator.integers(0, 256, block.shape, np.uint8)
        parts.append(Images(images, None))
    return _Source(parts[0], parts[1])


def _tfds(
    name: str, image_size: int, placement: str, memory_gib: float, folder: str | None
) -> _Source:
    folder = folder or os.environ.get("TFDS_DATA_DIR")
    builder = tfds_sets.find(name, folder)
    _check_features(builder, image_size)
    if not tfds_sets.is_prepared(builder):
        tfds_sets.download(name, folder, "array_record" if placement == "records" else None)
        builder = tfds_sets.find(name, folder)
    require("train" in builder.info.splits, f"data.name={name!r} has no training images")
    stored_shape = builder.info.features["image"].shape
    test_split = next((s for s in ("test", "validation") if s in builder.info.splits), None)
    splits = [split for split in ("train", test_split) if split]
    image_shape = (image_size, image_size, stored_shape[-1]) if image_size else stored_shape
    read = _open if _stays_in_files(builder, splits, image_shape, placement, memory_gib) else _read
    try:
        parts = [read(builder, split, image_shape) for split in splits]
    except (tf.errors.OpError, OSError, AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the data set in {builder.data_path} cannot be read ({type(error).__name__}); "
            "delete that folder and prepare it again"
        ) from error
    return _Source(parts[0], parts[1] if test_split else None)


def _check_features(builder, image_size: int) -> None:
    """Makes sure, before it is downloaded, that a data set holds images which can be read."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    require(
        isinstance(features, tfds.features.FeaturesDict) and "image" in features,
        f"{builder.name} holds no images: its features are {', '.join(features or ())}",
    )
    shape, dtype = features["image"].shape, features["image"].np_dtype
    require(
        image_size > 0 or None not in shape,
        f"the images of {builder.name} differ in size {shape}; set data.image_size",
    )
    require(dtype == np.uint8, f"the images of {builder.name} are {dtype}, but only uint8 is read")


def _stays_in_files(builder, splits, image_shape, placement: str, memory_gib: float) -> bool:
    """Whether records are read as they are drawn, for want of memory or since it is asked."""
    count = sum(builder.info.splits[split].num_examples for split in splits)
    size = count * math.prod(image_shape)
    allowed = allowed_bytes(memory_gib)
    if placement != "records" and size <= allowed:
        return False
    why = (
        "data.placement='records' needs it as ArrayRecord"
        if placement == "records"
        else f"{builder.name} takes {size / _GIB:.1f} GiB of {allowed / _GIB:.1f} GiB of memory"
    )
    require(
        placement in ("auto", "records") and _is_array_record(builder),
        f"{why}; prepare it so that it can be read by index: "
        f"python -m trainer.prepare --dataset={builder.name} --records --data_dir=DIR, with a new "
        "folder DIR, TFDS_DATA_DIR set to it, and data.placement=auto",
    )
    return True


def allowed_bytes(memory_gib: float) -> float:
    """What images may fill of the host's memory, as `load` takes it."""
    return memory_gib * _GIB or _MEMORY_SHARE * psutil.virtual_memory().available


def _is_array_record(builder) -> bool:
    return builder.info.file_format.value == "array_record"


def _read(builder, split: str, image_shape: tuple[int, int, int]) -> Images:
    """A split, whole, into memory."""
    count = builder.info.splits[split].num_examples
    images = empty((count, *image_shape))
    labels = np.empty(count, np.int64) if _is_labelled(builder) else None
    read = _record_blocks if _is_array_record(builder) else _tfrecord_blocks
    start = 0
    for some_images, some_labels in read(builder, split, image_shape):
        images[start : start + len(some_images)] = some_images
        if labels is not None:
            labels[start : start + len(some_images)] = some_labels
        start += len(some_images)
    if start != count:
        raise ValueError(f"{start} of {count} examples")
    return Images(images, labels)


def _record_blocks(builder, split: str, image_shape: tuple[int, int, int]) -> Iterator[tuple]:
    """The images and labels of a split in ArrayRecord files, a block at a time."""
    part = _open(builder, split, image_shape)
    for start in range(0, len(part), _ROWS):
        block = slice(start, start + _ROWS)
        yield part.images[block], None if part.labels is None else part.labels[block]


def _open(builder, split: str, image_shape: tuple[int, int, int]) -> Images:
    """A split that stays in its ArrayRecord files."""
    import tensorflow_datasets as tfds

    def fitted(image: np.ndarray) -> np.ndarray:
        return image if image.shape == image_shape else _resized(image, image_shape).numpy()

    def number(label) -> np.ndarray:
        return np.asarray(label, np.int64)

    def records(feature: str, convert: Callable[[Any], np.ndarray], **settings) -> Records:
        source = builder.as_data_source(split, **settings)

        def read(numbers: np.ndarray) -> np.ndarray:
            examples = source.__getitems__(numbers.tolist())
            return np.stack([convert(example[feature]) for example in examples])

        return Records(read, np.arange(len(source), dtype=np.int32))

    images = records("image", fitted)
    if not _is_labelled(builder):
        return Images(images, None)
    skip = {"image": tfds.decode.SkipDecoding()}
    return Images(images, records("label", number, decoders=skip))


def _tfrecord_blocks(builder, split: str, image_shape: tuple[int, int, int]) -> Iterator[tuple]:
    """Likewise of TFRecord files: TFDS itself parses one example after the other, far slower."""
    features = {"image": tf.io.FixedLenFeature([], tf.string)}
    if _is_labelled(builder):
        features["label"] = tf.io.FixedLenFeature([], tf.int64)
    stored_shape = builder.info.features["image"].shape

    def decoded(encoded):
        image = tf.io.decode_image(encoded, image_shape[-1], expand_animations=False)
        return image if stored_shape == image_shape else _resized(image, image_shape)

    def block(serialized):
        examples = tf.io.parse_example(serialized, features)
        signature = tf.TensorSpec(image_shape, tf.uint8)
        images = tf.map_fn(decoded, examples["image"], fn_output_signature=signature)
        return images, examples.get("label", 0)

    files = tf.data.TFRecordDataset([str(path) for path in builder.info.splits[split].filepaths])
    yield from files.batch(256).map(block, tf.data.AUTOTUNE).as_numpy_iterator()


def _is_labelled(builder) -> bool:
    features = builder.info.features
    return "label" in features and features["label"].shape == ()


def _resized(image, image_shape: tuple[int, int, int]) -> tf.Tensor:
    resized = tf.image.resize(image, image_shape[:2], antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)
