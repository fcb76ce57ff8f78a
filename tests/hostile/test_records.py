"""A damaged data set of TFDS is read, or refused in one line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.hostile.corpus import damages, few_or_many, refused_in_one_line, try_many
from tests.tiny_colour import TinyColour
from trainer import data
from trainer.config import make_data
from trainer.errors import UserError

FILES = ("tiny_colour-train.tfrecord-00000-of-00001", "dataset_info.json", "features.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyColour(data_dir=str(folder)).download_and_prepare()
    return folder


@pytest.fixture
def prepared(whole, tmp_path, monkeypatch):
    """The folder of a data set's files, of which each test may damage some."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return next(Path(tmp_path).rglob("dataset_info.json")).parent


def load():
    return data.load(make_data("tiny_colour", image_size=6, validation_fraction=0.25))


@pytest.mark.parametrize("name", FILES)
@few_or_many(150)
def test_a_damaged_file_of_a_data_set_is_read_or_refused(prepared, name, examples):
    content = (prepared / name).read_bytes()

    def meet(damaged):
        (prepared / name).write_bytes(damaged)
        with refused_in_one_line():
            load()

    try_many(examples, damages(content), meet)


def absurd_png(prepared):
    from tests.hostile.test_inputs import huge_png

    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[huge_png()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    with tf.io.TFRecordWriter(str(prepared / FILES[0])) as writer:
        for _ in range(20):
            writer.write(example.SerializeToString())


def absurd_length(prepared):
    content = (prepared / FILES[0]).read_bytes()
    (prepared / FILES[0]).write_bytes(np.uint64(2**62).tobytes() + content[8:])


def cut(prepared):
    content = (prepared / FILES[0]).read_bytes()
    (prepared / FILES[0]).write_bytes(content[:-20])


def flipped(prepared):
    content = bytearray((prepared / FILES[0]).read_bytes())
    content[40] ^= 1
    (prepared / FILES[0]).write_bytes(content)


def empty(prepared):
    (prepared / FILES[0]).write_bytes(b"")


@pytest.mark.parametrize("damage", [absurd_png, absurd_length, cut, flipped, empty])
def test_damaged_records_are_named_with_what_to_do(prepared, damage):
    damage(prepared)
    with pytest.raises(UserError, match=r"cannot be read .*; delete that folder and prepare it"):
        load()
