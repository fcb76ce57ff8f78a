"""Sources are found by their names, and refuse what they do not take."""

import importlib
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data.conftest import sizes_of
from trainer import data
from trainer.config import located, make_data, missing_paths, source_of, source_settings
from trainer.data import sources
from trainer.data.sources import arrays

ROOT = Path(__file__).parents[2]


def test_a_source_is_found_by_its_name():
    for source in source_settings():
        module = sources.find(importlib.import_module(f"{sources.__name__}.{source}").EXAMPLE)
        assert vars(module)["__name__"].endswith(f".{source}")
        assert all(hasattr(module, attribute) for attribute in get_type_hints(sources.Source))
    assert source_of("mnist:3.0.1") == "tfds"


def test_each_path_of_a_source_with_several_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "SEVERAL_PATHS", True)
    monkeypatch.chdir(tmp_path)
    began = tmp_path / "began"
    began.mkdir()
    names = ("rows.npy", "labels.npy")
    pair = make_data(f"arrays:{','.join(names)}")
    assert missing_paths(pair) == [*names]
    for name in names:
        assert located(pair, str(began)) == pair  # not all files are there
        (began / name).touch()
    found = located(pair, str(began))
    assert found.name == f"arrays:{began / names[0]},{began / names[1]}"
    assert missing_paths(found) == []


def test_digits_and_noise_are_as_large_as_they_are_asked_to_be(load):
    assert load("digits").image_shape == (28, 28, 1)
    digits, noise = load("digits", image_size=14), load("noise:5000", image_size=8)
    assert (digits.image_shape, noise.image_shape) == ((14, 14, 1), (8, 8, 1))
    assert digits.train.images.max() == 255
    assert sizes_of(noise) == [4750, 250, 1000]
    assert noise.train.images.mean() == pytest.approx(127.5, abs=1)


def test_vectors_of_a_program_are_copied_and_none_held_out_to_test():
    vectors = np.random.default_rng(0).normal(size=(40, 3))
    own = data.load(make_data("memory"), vectors=vectors)
    assert sizes_of(own) == [38, 2, 0]
    rows = np.concatenate([own.train.images, own.validation.images])
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(vectors[:, 0].astype(np.float32)))
    assert not np.shares_memory(rows, vectors)


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("arrays:own.npz", {"image_size": 8}, "data.image_size=8 is not allowed with 'arrays:own"),
        ("noise:5000", {"placement": "records"}, "'records' is not allowed with 'noise:5000'"),
        ("mnist", {"channels": 3}, "data.channels=3 is not allowed with 'mnist'"),
        ("images:own", {"label_column": "a"}, "label_column='a' is not allowed with 'images:own'"),
        ("digits", {"memory_gib": 1e-6}, "GiB of memory"),
        ("digits", {"image_size": 2**20}, "data.image_size=1048576"),
        ("digits", {"standardise": True}, "data.standardise=True needs vectors"),
        ("digits", {"validation_fraction": 1e-9}, "1e-09"),
        ("digits:x", {}, "'digits:x' is not known"),
        ("noise:many", {}, "'noise:many'"),
        ("noise:2", {}, "'noise:2'"),
        ("noise:" + "9" * 400, {}, "noise:N"),
        ("noise:10000", {"memory_gib": 1e-6}, "GiB of memory"),
        ("memory", {}, "arrays:FILE.npz"),
        ("arrays:", {}, "arrays:FILE.npz"),
        ("arrays", {}, "arrays:FILE.npz"),
        ("images:", {}, "images:DIR"),
        ("table", {}, "table:FILE"),
        ("table:a.csv,b.csv,c.csv", {}, "table:TRAIN,TEST"),
        ("images:DIR", {}, "is a placeholder; replace DIR"),
        ("mnits", {}, "did you mean mnist"),
        ("tabel:a.csv", {}, "did you mean table:a.csv?"),
        ("nosie:500", {}, "did you mean noise"),
        ("mnist:9.9.9", {}, "'mnist:9.9.9'"),
        ("", {}, "''"),
        ("own.npz", {}, "did you mean arrays:own.npz?"),
        ("own.csv", {}, "did you mean table:own.csv?"),
        ("tests", {}, "did you mean images:tests?"),
    ],
)
def test_what_a_source_cannot_have_is_refused(load, refused, monkeypatch, name, settings, named):
    monkeypatch.chdir(ROOT)
    assert named in refused(load, name, **settings)


def test_tfds_is_not_asked_for_what_others_have_written(load, refused, monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("TFDS would download and run their code")

    monkeypatch.setattr(tfds, "builder", fetch)
    for name in ("huggingface:mnist", "robotics:x/y:1.0.0"):
        assert f"{name!r} is not known" in refused(load, name)
