"""The examples of a TFDS data set, out of its TFRecord or ArrayRecord files."""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.examples import BLOCK_ROWS, GIB, Images, Records, allowed_bytes, empty, untuned
from trainer.data.files import tfds_sets
from trainer.errors import UserError, require


def read(
    name: str, image_size: int, placement: str, memory_gib: float, folder: str | None
) -> tuple[Images, Images | None]:
    """The images to train on and, where the data set brings some, to test on.

    One that is not there is downloaded. Where it does not fit the memory, or `placement` is
    "records", it stays in its ArrayRecord files.

    Raises:
      UserError: it is not known, cannot be had or read, or holds no images of one size.
    """
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
    in_files = _stays_in_files(builder, splits, image_shape, placement, memory_gib)
    read_split = _open if in_files else _read
    try:
        parts = [read_split(builder, split, image_shape) for split in splits]
    except (tf.errors.OpError, OSError, AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the data set in {builder.data_path} cannot be read ({type(error).__name__}); "
            "delete that folder and prepare it again"
        ) from error
    return parts[0], parts[1] if test_split else None


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
        else f"{builder.name} takes {size / GIB:.1f} GiB of {allowed / GIB:.1f} GiB of memory"
    )
    require(
        placement in ("auto", "records") and _is_array_record(builder),
        f"{why}; prepare it so that it can be read by index: "
        f"python -m trainer.prepare --dataset={builder.name} --records --data_dir=DIR, with a new "
        "folder DIR, TFDS_DATA_DIR set to it, and data.placement=auto",
    )
    return True


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
    for start in range(0, len(part), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
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
    yield from untuned(files.batch(256).map(block, os.cpu_count())).as_numpy_iterator()


def _is_labelled(builder) -> bool:
    features = builder.info.features
    return "label" in features and features["label"].shape == ()


def _resized(image, image_shape: tuple[int, int, int]) -> tf.Tensor:
    resized = tf.image.resize(image, image_shape[:2], antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)
