import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.tiny_colour import TinyColour
from trainer import data
from trainer.config import make_data

HOLDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def hold_lock():
    """Has another process hold a lock, and die a second later, once a function has been called."""
    holders = []

    def hold(path, at_last):
        holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE)
        assert holder.stdout is not None
        holder.stdout.readline()
        holders.append(holder)

        def end():
            at_last()
            holder.kill()

        threading.Timer(1, end).start()

    yield hold
    for holder in holders:
        holder.communicate()


@pytest.fixture
def load():
    """Loads a data set by data keys."""

    def load(name, **keys):
        return data.load(make_data(name, **keys))

    return load


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
    folders = {}
    for file_format in ("tfrecord", "array_record"):
        folders[file_format] = tmp_path_factory.mktemp(file_format)
        builder = TinyColour(data_dir=str(folders[file_format]), file_format=file_format)
        builder.download_and_prepare()
    return folders


@pytest.fixture
def tfds_folder(prepared, tmp_path, monkeypatch):
    """Makes TFDS_DATA_DIR a copy of the tiny data set in a format."""

    def copy(file_format):
        shutil.copytree(prepared[file_format], tmp_path / "tfds")
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
        return tmp_path / "tfds"

    return copy


@pytest.fixture
def refused():
    """Returns the one line of the UserError that a function raises."""
    from tests.hostile.corpus import assert_one_line
    from trainer.errors import UserError

    def refused(function, *arguments, **named):
        with pytest.raises(UserError) as error:
            function(*arguments, **named)
        assert_one_line(str(error.value))
        return str(error.value)

    return refused
