"""A data set in its three parts, and how positions turn one into tf.data batches."""

import dataclasses
import hashlib
import sys
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from trainer import positions
from trainer.data import sources
from trainer.data.examples import BLOCK_ROWS, Images, Records, blocks, empty, to_unit, untuned
from trainer.errors import UserError, require, require_at_least, require_choice

_SPLIT_SEED = 0  # every run, whatever its seed, is validated and tested on the same images
_TEST_FRACTION = 0.2  # cut from the training images where a data set brings no test images
_FINGERPRINT_IMAGES = 100_000  # of a part; a larger one is told by so many, evenly spread
_PLACEMENTS = ("auto", "device", "host", "records")
_LARGEST_SIDE = 16_384  # pixels of a square that images are made
_DRAWN_ROWS = 512  # of images at a time, that take a number for each pixel


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
                    for start in range(0, len(told), BLOCK_ROWS):
                        digest.update(
                            np.ascontiguousarray(array[told[start : start + BLOCK_ROWS]]).data
                        )
        return digest.hexdigest()


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
    source = sources.read(
        name,
        image_size=image_size,
        file_settings={"channels": channels, "fit": fit, "cache_dir": cache_dir},
        column_settings={
            "label_column": label_column,
            "drop_columns": drop_columns,
            "impute": impute,
        },
        placement=placement,
        memory_gib=memory_gib,
        folder=folder,
        vectors=vectors,
    )
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
    return untuned(calls.take_while(lambda _, count, __: count > 0).prefetch(2))


def scaling_of(inputs: Mapping[str, list]) -> Scaling | None:
    """The scaling that `Dataset.inputs` told of, if there is one."""
    if "mean" not in inputs:
        return None
    mean, deviation = (np.array(inputs[name], np.float64) for name in ("mean", "deviation"))
    return Scaling(mean, deviation)


def fill_in(vectors: np.ndarray, fill: np.ndarray) -> None:
    """Puts `fill` [D] in the place of what is missing, NaN, in vectors [., D]."""
    np.copyto(vectors, fill.astype(np.float32), where=np.isnan(vectors))


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
    for start in range(0, len(kept), BLOCK_ROWS):  # in place: a second copy may not fit
        block = kept[start : start + BLOCK_ROWS]
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
        for block in blocks(part.images):
            fill_in(block, fill)
    return fill


def _standardise(train: Images, validation: Images, test: Images, name: str) -> Scaling:
    """Shifts and scales the vectors in place, by mean and deviation of the training part."""
    rows = train.images
    if isinstance(rows, Records) or rows.ndim > 2:
        raise UserError(f"data.standardise=True needs vectors; {name!r} holds images")
    lowest, highest = rows.min(axis=0), rows.max(axis=0)
    mean = rows.mean(axis=0, dtype=np.float64)
    squares = sum(np.square(block - mean).sum(axis=0) for block in blocks(rows))
    deviation = np.sqrt(squares / len(rows))
    # A constant's deviation is not 0 but for rounding.
    scaling = Scaling(mean, np.where(lowest < highest, deviation, 1))
    for part in (train, validation, test):
        for block in blocks(part.images):
            block[:] = scaling.apply(block)
    return scaling
