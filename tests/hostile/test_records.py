"""A damaged data set of TFDS is read, or refused in one line."""

import numpy as np
import pytest
import tensorflow as tf

from tests.hostile.corpus import damages, few_or_many, refused_in_one_line, try_many
from tests.hostile.files import huge_png
from tests.tiny_colour import TinyColour
from trainer import data
from trainer.config import make_data
from trainer.errors import UserError

RECORDS = "tiny_colour-train.tfrecord-00000-of-00001"


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """The folder of a data set's files."""
    TinyColour(data_dir=str(tmp_path)).download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (info,) = tmp_path.rglob("dataset_info.json")
    return info.parent


def load():
    return data.load(make_data("tiny_colour", image_size=6, validation_fraction=0.25))


@pytest.mark.parametrize(
    ("name", "few"), [(RECORDS, 10), ("dataset_info.json", 25), ("features.json", 10)]
)
@few_or_many(150)
def test_a_damaged_file_of_a_data_set_is_read_or_refused(prepared, name, few, examples):
    content = (prepared / name).read_bytes()

    def meet(damaged):
        (prepared / name).write_bytes(damaged)
        with refused_in_one_line():
            load()

    try_many(few if examples < 150 else examples, damages(content), meet)


def records_of(image):
    """The files' content, were each of their images this one."""
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_damaged_records_are_named_with_what_to_do(prepared):
    path = prepared / RECORDS
    content = path.read_bytes()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(20):
            writer.write(records_of(huge_png()))
    flipped = content[:40] + bytes([content[40] ^ 1]) + content[41:]
    absurd_length = np.uint64(2**62).tobytes() + content[8:]
    for damaged in (path.read_bytes(), absurd_length, content[:-20], flipped, b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{prepared} cannot be read .*; delete that folder"):
            load()
