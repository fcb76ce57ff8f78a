"""Where images come from, and how positions turn them into tf.data batches."""

import contextlib
import dataclasses
import difflib
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from trainer import positions
from trainer.errors import UserError, require, require_at_least

_SPLIT_SEED = 0  # every run, whatever its seed, is validated and tested on the same images
_REACH_TIMEOUT_SECONDS = 10
_TEST_FRACTION = 0.2  # cut from the training images where a data set brings no test images


@dataclasses.dataclass(frozen=True)
class Images:
    """Images [N, H, W, C], uint8 or float in [0, 1], and their labels [N] where there are any."""

    images: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen) -> "Images":
        return Images(self.images[chosen], None if self.labels is None else self.labels[chosen])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The three parts of a data set; no image is in two of them."""

    train: Images
    validation: Images
    test: Images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def fingerprint(self) -> str:
        """A digest of every image, its label and the part it is in, as hexadecimal digits."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for array in (part.images, part.labels):
                if array is not None:
                    digest.update(f"{array.shape} {array.dtype}".encode())
                    digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(name: str, *, image_size: int, validation_fraction: float) -> Dataset:
    """Reads a data set whole into memory: "digits", or an image data set of TFDS by name.

    Raises:
      UserError: it is not known, cannot be had, or holds no images of one shape.
    """
    require(
        0 < validation_fraction < 1,
        f"data.validation_fraction={validation_fraction} is not allowed; "
        "it must lie between 0 and 1",
    )
    require_at_least("data.image_size", image_size, 0)
    train, test = _digits(image_size or 28) if name == "digits" else _tfds(name, image_size)
    if test is None:
        train, test = _cut(train, _TEST_FRACTION)
    train, validation = _cut(train, validation_fraction)
    return Dataset(train, validation, test)


def batches(
    images: np.ndarray, step_ranges: Iterable[tuple[int, int]], batch_size: int, seed: int
) -> tf.data.Dataset:
    """The run's training batches, K steps at a time.

    Each element is (first step, images [K, B, H, W, C]) for one of the `step_ranges`
    (first, last), K = last - first; step k draws positions kB to (k + 1)B - 1.
    """

    def elements() -> Iterator[tuple[int, np.ndarray]]:
        for first, last in step_ranges:
            count = (last - first) * batch_size
            drawn = positions.examples(seed, first * batch_size, count, len(images))
            yield first, images[drawn].reshape(last - first, batch_size, *images.shape[1:])

    signature = (
        tf.TensorSpec([], tf.int64),
        tf.TensorSpec([None, batch_size, *images.shape[1:]], images.dtype),
    )
    return tf.data.Dataset.from_generator(elements, output_signature=signature).prefetch(2)


def to_unit(images: np.ndarray) -> np.ndarray:
    """Images as float32 in [0, 1]."""
    return images / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)


def _cut(whole: Images, fraction: float) -> tuple[Images, Images]:
    """Two parts, the second a random `fraction` of the whole; the order stays."""
    size = round(fraction * len(whole))
    require(
        0 < size < len(whole),
        f"{len(whole)} training images cannot give up a share of {fraction}; one part is empty",
    )
    held_out = np.zeros(len(whole), bool)
    held_out[positions.permutation(_SPLIT_SEED, 0, len(whole))[:size]] = True
    return whole[~held_out], whole[held_out]


def _digits(size: int) -> tuple[Images, None]:
    """1,797 handwritten digits of 8x8 pixels that come inside scikit-learn, scaled to a size."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    scaled = tf.image.resize(digits.images[..., np.newaxis] / 16, (size, size), "bicubic")
    images = tf.cast(tf.round(255 * tf.clip_by_value(scaled, 0, 1)), tf.uint8).numpy()
    return Images(images, digits.target), None


def _tfds(name: str, image_size: int) -> tuple[Images, Images | None]:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except Exception as error:  # a name can be wrong in as many ways as it has parts
        known = ["digits", *tfds.list_builders()]
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see tensorflow.org/datasets"
        raise UserError(f"data.name={name!r} is no data set of TFDS; {hint}") from error
    _prepare(builder)
    features = builder.info.features
    require(
        isinstance(features, tfds.features.FeaturesDict) and "image" in features,
        f"data.name={name!r} holds no images: its features are {', '.join(features or ())}",
    )
    require("train" in builder.info.splits, f"data.name={name!r} has no training images")
    test_split = next((s for s in ("test", "validation") if s in builder.info.splits), None)
    train = _read(builder, "train", image_size)
    return train, _read(builder, test_split, image_size) if test_split else None


def _prepare(builder) -> None:
    """Downloads and prepares a TFDS data set, unless that was done."""
    if builder.data_path.exists():
        return
    try:
        for url in list(builder.url_infos)[:1]:
            _reach(url)  # TFDS itself retries for minutes where there is no network
        builder.download_and_prepare()
    except Exception as error:  # a download fails in as many ways as there are libraries in it
        raise UserError(
            f"the data set {builder.info.full_name} is neither in {builder.data_path} nor can it "
            f"be downloaded ({type(error).__name__}); prepare it with tensorflow-datasets on a "
            f"connected machine, copy the folder {builder.name}/, and set TFDS_DATA_DIR to the "
            "folder that holds it"
        ) from error


def _reach(url: str) -> None:
    """Raises OSError unless the server of a URL answers, be it with a refusal."""
    request = urllib.request.Request(url, method="HEAD")
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=_REACH_TIMEOUT_SECONDS).close()


def _read(builder, split: str, image_size: int) -> Images:
    shape = builder.info.features["image"].shape
    require(
        image_size > 0 or None not in shape,
        f"the images of {builder.name} differ in size {shape}; set data.image_size",
    )
    dtype = builder.info.features["image"].np_dtype
    require(dtype == np.uint8, f"the images of {builder.name} are {dtype}, but only uint8 is read")
    labelled = "label" in builder.info.features

    def example(features):
        image = features["image"]
        if image_size:
            resized = tf.image.resize(image, (image_size, image_size), antialias=True)
            image = tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)
        return (image, features["label"]) if labelled else (image,)

    try:
        rows = builder.as_dataset(split=split).map(example, tf.data.AUTOTUNE).batch(1024)
        columns = [np.concatenate(column) for column in zip(*rows.as_numpy_iterator(), strict=True)]
    except (tf.errors.OpError, OSError, AssertionError) as error:
        raise UserError(
            f"the data set in {builder.data_path} cannot be read ({type(error).__name__}); "
            "delete that folder and prepare it again"
        ) from error
    return Images(columns[0], columns[1] if labelled else None)
