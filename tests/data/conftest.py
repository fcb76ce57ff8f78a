import fcntl
import threading

import numpy as np
import pytest

from tests.hostile.corpus import assert_one_line
from tests.tiny_colour import TinyColour
from trainer import data
from trainer.config import make_data
from trainer.errors import StorageError, UserError

FEATURES = 6


def vectors(count=60, seed=0):
    return np.random.default_rng(seed).normal(5, 3, (count, FEATURES))


def splits_of(dataset):
    return (dataset.train, dataset.validation, dataset.test)


def sizes_of(dataset):
    return [len(split) for split in splits_of(dataset)]


@pytest.fixture
def hold_lock():
    """Holds a lock as another process would, and gives it back after a call, a moment later."""

    def hold(path, at_last):
        lock = path.open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(0.5, lambda: (at_last(), lock.close())).start()

    return hold


@pytest.fixture
def load():
    """Loads a data set by data keys."""
    return lambda name, **keys: data.load(make_data(name, **keys))


@pytest.fixture
def save(tmp_path):
    """Writes arrays to an .npz file, and returns its data.name."""

    def save(**arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        return f"arrays:{tmp_path / 'own.npz'}"

    return save


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Prepares the tiny data set of TFDS in both formats; returns their folders by format."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("tfrecord", "array_record")}
    for name, folder in folders.items():
        TinyColour(data_dir=str(folder), file_format=name).download_and_prepare()
    return folders


@pytest.fixture
def refused():
    """Returns the one line of the UserError that a function raises, or of a StorageError."""

    def refused(function, *arguments, **named):
        with pytest.raises((UserError, StorageError)) as error:
            function(*arguments, **named)
        assert_one_line(str(error.value))
        return str(error.value)

    return refused
