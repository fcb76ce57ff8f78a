"""Arrays kept in a folder: what is computed again, and what is not."""

import numpy as np
import pytest

from trainer.storage import user_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "autoencoder-trainer"


def kept(key, value, **settings):
    arrays = user_cache.load_or_compute(key, lambda: {"a": np.array(value)}, **settings)
    return arrays["a"].tolist()


def test_arrays_are_computed_once_for_each_key_and_again_if_they_are_not_enough(folder):
    assert kept(["x", 1], [1.5, 2]) == [1.5, 2]
    assert kept(["x", 1], [7]) == [1.5, 2]
    assert kept(["x", 2], [7]) == [7]
    assert kept(["x", 1], [1, 2, 3], is_enough=lambda arrays: len(arrays["a"]) > 2) == [1, 2, 3]
    assert kept(["x", 1], [7]) == [1, 2, 3]
    assert len(list(folder.iterdir())) == 2


def test_a_damaged_file_is_computed_again(folder):
    kept(["x"], [1])
    (file,) = folder.iterdir()
    content = file.read_bytes()
    for number, damaged in enumerate([b"", content[:-1], content[:40] + b"?" + content[41:]]):
        file.write_bytes(damaged)
        assert kept(["x"], [number]) == [number]
        assert kept(["x"], [9]) == [number]


def test_a_folder_that_cannot_be_written_is_no_failure(folder):
    folder.touch()
    assert kept(["x"], [1]) == [1]
    assert kept(["x"], [2]) == [2]


def test_the_files_read_longest_ago_make_room(folder, monkeypatch):
    kept(["old"], [1])
    (old,) = folder.iterdir()
    monkeypatch.setattr(user_cache, "_MAX_BYTES", 3 * old.stat().st_size // 2)
    kept(["new"], [2])
    assert not old.exists()
    assert kept(["new"], [7]) == [2]
