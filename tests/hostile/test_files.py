"""Whatever a user's file holds, it is read, or refused in one line: no crash, hang or flood."""

import contextlib
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.hostile.corpus import (
    assert_one_line,
    damages,
    few_or_many,
    refused_in_one_line,
    try_many,
)
from tests.hostile.files import IDX, IDX_NAME, ORIGINAL, RIGHT, WRONG
from trainer.data.files import (
    idx,
    image_folder,
    training_arrays,
    training_tables,
)
from trainer.data.files.decoder import Decoder, Unreadable
from trainer.data.files.training_tables import ColumnRoles, Storage
from trainer.errors import UserError
from trainer.serving import readers
from trainer.serving.options import StreamOptions
from trainer.storage import paths

ROOT = Path(__file__).parents[2]
MOST_BYTES = 2**24  # of memory, for a file of a few KiB
ROOMS = ("trainer", "launch", "configs", "benchmarks", "docs")


def train_on(path):
    """Reads a file as a training reads its data."""
    if path.name.startswith(IDX_NAME):
        assert idx.read(path.parent, {IDX_NAME: ORIGINAL}) == {IDX_NAME: IDX}
    elif path.suffix in paths.ARRAY_SUFFIXES:
        training_arrays.read(path, MOST_BYTES)
    elif path.suffix in paths.TABLE_SUFFIXES:
        storage = Storage("host", MOST_BYTES)
        training_tables.read([path], ColumnRoles(label="label", keep_missing=True), storage=storage)
    else:
        image = Decoder()(path)
        if isinstance(image, Unreadable):
            raise UserError(image.reason)


def encode(path):
    """Reads a file as `encode` does, to its end."""
    if path.name.startswith(IDX_NAME):
        return
    options = StreamOptions(
        array="train" if path.suffix == ".npz" else "",
        label_column="label" if path.suffix in paths.TABLE_SUFFIXES else "",
    )
    shape = (8, 8, 3) if path.suffix in paths.IMAGE_SUFFIXES else (4,)
    training = readers.Preprocessing(shape, fill=np.zeros(4))
    examples = readers.examples(path, training, options)
    for _ in examples.blocks(1024):
        pass
    if examples.unreadable:
        raise UserError(examples.unreadable[0])


@pytest.mark.parametrize("name", RIGHT)
@few_or_many(600)
def test_a_damaged_file_is_read_or_refused(tmp_path, name, examples):
    path = tmp_path / name
    path.write_bytes(RIGHT[name])
    for read in (train_on, encode):
        read(path)

    def meet(content):
        path.write_bytes(content)
        for read in (train_on, encode):
            with refused_in_one_line():
                read(path)

    try_many(examples, damages(RIGHT[name]), meet)


@contextlib.contextmanager
def little_memory():
    pool, before = pa.system_memory_pool(), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    held = pool.max_memory()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
        assert pool.max_memory() - held < MOST_BYTES
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_before_it_takes_memory_and_writes_nothing(tmp_path, name):
    make, named = WRONG[name]
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(make())
    assert path.stat().st_size < 2**21
    lines = named if isinstance(named, tuple) else (named, named)
    for read, line in zip((train_on, encode), lines, strict=True):
        with little_memory():
            if line is None or (read is encode and name.startswith(IDX_NAME)):
                read(path)
            else:
                with pytest.raises(UserError, match=line) as error:
                    read(path)
                assert_one_line(str(error.value))
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]


def test_links_that_lead_back_are_not_walked_for_ever(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "one.png").write_bytes(RIGHT["picture.png"])
    for name in ("a", "b"):
        (tmp_path / "cats" / name).symlink_to(tmp_path)
    for read in (image_folder.names, image_folder.scan):
        with pytest.raises(UserError, match="is the same folder as"):
            read(tmp_path)


def test_nothing_loads_pickles_or_evaluates_text():
    # The defaults of numpy.load and keras.models.load_model are safe.
    modules = r"^\s*(import|from) (pickle|joblib|marshal|shelve|dill)\b"
    unsafe = r"\b(eval|exec|__import__)\(|allow_pickle=True|safe_mode=False|unsafe_deserialization"
    for path in [path for room in ROOMS for path in ROOT.glob(f"{room}/**/*.py")]:
        assert not re.search(f"{modules}|(?<!\\.){unsafe}", path.read_text(), re.MULTILINE), path
