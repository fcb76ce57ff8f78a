"""Reads the examples of a TFDS data set from its TFRecord or ArrayRecord files."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.batches import without_autotune
from trainer.data.dataset import Records, Split
from trainer.data.memory import BLOCK_ROWS, aligned_empty
from trainer.limits import usable_cores

_TFRECORD_BATCH = 256


def read_split(builder, name: str, image_shape: tuple[int, int, int]) -> Split:
    """Reads a split into memory, with images resized to a shape (H, W, C).

    Raises:
      ValueError: the files hold another number of examples than the data set's info says.
    """
    count = builder.info.splits[name].num_examples
    images = aligned_empty((count, *image_shape))
    labels = np.empty(count, np.int64) if _is_labelled(builder) else None
    is_array_record = builder.info.file_format.value == "array_record"
    read = _array_record_blocks if is_array_record else _tfrecord_blocks
    start = 0
    for image_block, label_block in read(builder, name, image_shape):
        rows = slice(start, start + len(image_block))
        images[rows] = image_block
        if labels is not None:
            labels[rows] = label_block
        start += len(image_block)
    if start != count:
        raise ValueError(f"{start} of {count} examples")
    return Split(images, labels)


def open_split(builder, name: str, image_shape: tuple[int, int, int]) -> Split:
    """Opens a split that stays in its ArrayRecord files."""
    import tensorflow_datasets as tfds

    def resized(image: np.ndarray) -> np.ndarray:
        return image if image.shape == image_shape else _resize(image, image_shape).numpy()

    def int64(label) -> np.ndarray:
        return np.asarray(label, np.int64)

    def records(feature: str, convert: Callable[[Any], np.ndarray], **settings) -> Records:
        source = builder.as_data_source(name, **settings)

        def read(rows: np.ndarray) -> np.ndarray:
            examples = source.__getitems__(rows.tolist())
            return np.stack([convert(example[feature]) for example in examples])

        return Records(read, np.arange(len(source), dtype=np.int32))

    images = records("image", resized)
    if not _is_labelled(builder):
        return Split(images, None)
    without_images = {"image": tfds.decode.SkipDecoding()}
    return Split(images, records("label", int64, decoders=without_images))


def _array_record_blocks(builder, name: str, image_shape: tuple[int, int, int]) -> Iterator[tuple]:
    """Yields the images and labels of a split in ArrayRecord files."""
    split = open_split(builder, name, image_shape)
    for start in range(0, len(split), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        yield split.images[block], None if split.labels is None else split.labels[block]


def _tfrecord_blocks(builder, name: str, image_shape: tuple[int, int, int]) -> Iterator[tuple]:
    """Yields the images and labels of a split in TFRecord files.

    TFDS itself would parse one example at a time, which is far slower.
    """
    features = {"image": tf.io.FixedLenFeature([], tf.string)}
    if _is_labelled(builder):
        features["label"] = tf.io.FixedLenFeature([], tf.int64)
    stored_shape = builder.info.features["image"].shape

    def decode(encoded):
        image = tf.io.decode_image(encoded, image_shape[-1], expand_animations=False)
        return image if stored_shape == image_shape else _resize(image, image_shape)

    def block(serialized):
        examples = tf.io.parse_example(serialized, features)
        signature = tf.TensorSpec(image_shape, tf.uint8)
        images = tf.map_fn(decode, examples["image"], fn_output_signature=signature)
        return images, examples.get("label", 0)

    files = [str(path) for path in builder.info.splits[name].filepaths]
    batches = tf.data.TFRecordDataset(files).batch(_TFRECORD_BATCH).map(block, usable_cores())
    yield from without_autotune(batches).as_numpy_iterator()


def _is_labelled(builder) -> bool:
    features = builder.info.features
    return "label" in features and features["label"].shape == ()


def _resize(image, image_shape: tuple[int, int, int]) -> tf.Tensor:
    resized = tf.image.resize(image, image_shape[:2], antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)
