"""Sources are found by their names, and refuse what they do not take."""

import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import tensorflow_datasets as tfds

from trainer import data
from trainer.config import make_data, source_of, source_settings
from trainer.data import sources

ROOT = Path(__file__).parents[2]
NAMES = {
    "arrays": "arrays:own.npz",
    "digits": "digits",
    "images": "images:own",
    "memory": "memory",
    "noise": "noise:5000",
    "table": "table:own.csv",
    "tfds": "mnist",
}


def test_a_source_is_found_by_its_name():
    for source, name in NAMES.items():
        assert source_of(name) == source
    assert source_of("mnist:3.0.1") == "tfds"


@pytest.mark.parametrize("source", source_settings())
def test_a_module_of_a_source_has_all_that_a_source_has(source):
    module = sources.find(f"{source}:")
    for name in get_type_hints(sources.Source):
        assert hasattr(module, name)
    assert callable(module.read)


def test_sources_and_load_are_imported_without_tensorflow():
    code = (
        "import sys; from trainer import data; from trainer.config import make_data\n"
        "make_data('digits')\n"
        "print({'tensorflow', 'pyarrow', 'sklearn', 'PIL'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_only_data_of_a_users_files_may_be_found_at_another_path():
    movable = {source for source, name in NAMES.items() if sources.find(name).PATH_MAY_MOVE}
    assert movable == {"arrays", "images", "table"}


def test_digits_can_have_another_size(load):
    assert load("digits").image_shape == (28, 28, 1)
    digits = load("digits", image_size=14)
    assert digits.image_shape == (14, 14, 1)
    assert digits.train.images.max() == 255


def test_noise_is_as_large_as_it_is_asked_to_be(load):
    noise = load("noise:5000", image_size=8)
    splits = (noise.train, noise.validation, noise.test)
    assert [len(split) for split in splits] == [4750, 250, 1000]
    assert noise.image_shape == (8, 8, 1)
    assert noise.train.images.mean() == pytest.approx(127.5, abs=1)


def test_vectors_of_a_program_are_copied_and_none_held_out_to_test():
    vectors = np.random.default_rng(0).normal(size=(40, 3))
    own = data.load(make_data("memory"), vectors=vectors)
    assert [len(own.train), len(own.validation), len(own.test)] == [38, 2, 0]
    rows = np.concatenate([own.train.images, own.validation.images])
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(vectors[:, 0].astype(np.float32)))
    assert not np.shares_memory(rows, vectors)


# Each data key with a value that only some sources take.
REFUSED_KEYS = [
    *((name, {"image_size": 8}) for name in ("arrays", "memory", "table")),
    *(
        (name, {"placement": "records"})
        for name in ("arrays", "digits", "memory", "noise", "table")
    ),
    *((name, {"channels": 3}) for name in ("arrays", "digits", "table", "tfds")),
    *(("tfds", keys) for keys in ({"fit": "pad"}, {"cache_dir": "x"})),
    *(("images", keys) for keys in ({"label_column": "a"}, {"impute": "mean"})),
]


@pytest.mark.parametrize(("source", "settings"), REFUSED_KEYS)
def test_a_key_of_another_source_is_refused(load, refused, source, settings):
    ((key, value),) = settings.items()
    line = refused(load, NAMES[source], **settings)
    assert f"data.{key}={value!r} is not allowed with {NAMES[source]!r}" in line


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("digits", {"placement": "gpu"}, "data.placement='gpu'"),
        ("digits", {"memory_gib": -1.0}, "data.memory_gib=-1.0"),
        ("digits", {"memory_gib": 1e-6}, "GiB of memory"),
        ("digits", {"image_size": 2**20}, "data.image_size=1048576"),
        ("digits", {"standardise": True}, "data.standardise=True needs vectors"),
        ("digits", {"resplit_test": 1.0}, "data.resplit_test=1.0"),
        ("digits", {"resplit_test": -0.1}, "data.resplit_test=-0.1"),
        ("digits", {"validation_fraction": 0.0}, "data.validation_fraction=0.0"),
        ("digits", {"validation_fraction": 1.0}, "data.validation_fraction=1.0"),
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
        ("images:x", {"channels": 2}, "data.channels=2"),
        ("images:x", {"fit": "zoom"}, "data.fit='zoom'"),
        ("images:x", {"fit": "crop"}, "data.image_size"),
        ("table:x.csv", {"impute": "zero"}, "data.impute='zero'"),
        ("table", {}, "table:FILE"),
        ("table:a.csv,b.csv,c.csv", {}, "table:TRAIN,TEST"),
    ],
)
def test_a_setting_that_a_source_cannot_have_is_refused(load, refused, name, settings, named):
    assert named in refused(load, name, **settings)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("mnits", "did you mean mnist"),
        ("mnist:9.9.9", "'mnist:9.9.9'"),
        ("", "''"),
        ("a b", "'a b'"),
        ("own.npz", "did you mean arrays:own.npz?"),
        ("own.npy", "did you mean arrays:own.npy?"),
        ("own.csv", "did you mean table:own.csv?"),
        ("tests", "did you mean images:tests?"),
    ],
)
def test_a_name_that_is_no_name_is_refused_with_a_hint(load, refused, monkeypatch, name, named):
    monkeypatch.chdir(ROOT)
    assert named in refused(load, name)


@pytest.mark.parametrize("name", ["huggingface:mnist", "kubric:movi", "robotics:x/y:1.0.0"])
def test_tfds_is_not_asked_for_what_others_have_written(load, refused, monkeypatch, name):
    def fetch(*_, **__):
        raise AssertionError("TFDS would download and run their code")

    monkeypatch.setattr(tfds, "builder", fetch)
    assert f"{name!r} is not known" in refused(load, name)
