"""Arrays under the names, in the shapes and of the types in which people have them."""

import numpy as np
import pytest

from trainer import data
from trainer.config import make_data
from trainer.data.dataset import Records
from trainer.data.files.training_arrays import read
from trainer.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 3), np.uint8)
VECTORS = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)


def load(tmp_path, layout="auto", **arrays):
    np.savez(tmp_path / "own.npz", **arrays)
    return read(tmp_path / "own.npz", np.inf, layout)


@pytest.mark.parametrize("name", ["train", "x_train", "X", "images", "arr_0", "embeddings"])
def test_one_array_is_trained_on_under_any_name(tmp_path, name):
    found = load(tmp_path, **{name: VECTORS, "y": np.arange(6)})
    np.testing.assert_array_equal(found.examples["train"], VECTORS)
    assert found.labels["train"].tolist() == list(range(6))


def test_the_splits_of_keras_are_known(tmp_path):
    found = load(
        tmp_path, x_train=IMAGES, y_train=np.arange(6), x_test=IMAGES[:2], y_test=np.arange(2)
    )
    assert {split: len(rows) for split, rows in found.examples.items()} == {"train": 6, "test": 2}
    assert found.labels["test"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"a": VECTORS, "b": VECTORS}, "'a', 'b'"),
        ({"train": VECTORS, "x_train": VECTORS}, "both"),
        ({"train": VECTORS, "y_test": np.arange(2)}, "y_test"),
        ({"train": VECTORS, "test": VECTORS[:, :2]}, "2 numbers"),
        ({"train": np.moveaxis(IMAGES, 3, 1)}, "data.layout=channels_first"),
        ({"train": VECTORS, "y": np.full((6, 2), 1)}, "one-hot"),
        ({"train": VECTORS, "y": np.full(6, 0.5)}, "0.5"),
        ({"train": VECTORS, "y": np.arange(5)}, "6"),
        ({"train": IMAGES.astype(int) + 1}, "256"),
        ({"train": IMAGES / 100}, "[0, 1]"),
    ],
)
def test_what_cannot_be_taken_is_named(tmp_path, arrays, named):
    with pytest.raises(UserError) as error:
        load(tmp_path, **arrays)
    assert named in str(error.value)


def test_channels_may_come_first(tmp_path):
    found = load(tmp_path, "channels_first", train=np.moveaxis(IMAGES, 3, 1))
    np.testing.assert_array_equal(found.examples["train"], IMAGES)


@pytest.mark.parametrize("kind", [np.int64, np.uint16, np.int32])
def test_images_of_wider_integers_become_bytes(tmp_path, kind):
    found = load(tmp_path, train=IMAGES.astype(kind))
    assert found.examples["train"].dtype == np.uint8
    np.testing.assert_array_equal(found.examples["train"], IMAGES)


def test_windows_of_series_become_vectors_and_that_is_said(tmp_path):
    windows = np.random.default_rng(2).normal(size=(6, 10, 3))
    found = load(tmp_path, train=windows)
    np.testing.assert_array_equal(
        found.examples["train"], windows.astype(np.float32).reshape(6, 30)
    )
    assert "10 steps of 3 values" in found.notes[0]


def test_grey_images_stay_images(tmp_path):
    for images in (IMAGES[..., 0], IMAGES[..., 0] / 255):
        found = load(tmp_path, train=images)
        assert found.examples["train"].shape == (6, 9, 8, 1) and not found.notes


@pytest.mark.parametrize(
    "labels", [np.array([[0], [2], [1], [0], [1], [2]]), np.eye(3)[[0, 2, 1, 0, 1, 2]],
               np.array([0.0, 2, 1, 0, 1, 2]), np.array(list("acbabc"))],
)  # fmt: skip
def test_labels_come_in_every_usual_form(tmp_path, labels):
    found = load(tmp_path, train=VECTORS, y=labels)
    assert found.labels["train"].tolist() == [0, 2, 1, 0, 1, 2]
    assert found.class_names == (("a", "b", "c") if labels.dtype.kind == "U" else ())


def test_labels_may_be_of_one_class(tmp_path):
    assert load(tmp_path, train=VECTORS, y=np.zeros(6)).labels["train"].tolist() == [0] * 6


@pytest.mark.parametrize("standardise", [False, True])
def test_an_array_that_stays_in_its_file_is_the_same_data(tmp_path, standardise):
    rows = np.random.default_rng(3).normal(5, 3, (50, 4))
    np.save(tmp_path / "own.npy", rows)
    held, stays = (
        data.load(make_data(f"arrays:{tmp_path / 'own.npy'}", placement=placement,
                            standardise=standardise))
        for placement in ("host", "records")
    )  # fmt: skip
    assert isinstance(stays.train.images, Records)
    for one, other in ((held.train, stays.train), (held.test, stays.test)):
        np.testing.assert_allclose(one.images[:], other.images[:], rtol=1e-6, atol=1e-6)
    if not standardise:
        assert held.fingerprint() == stays.fingerprint()


def test_only_npy_files_stay_in_their_files(tmp_path):
    np.savez(tmp_path / "own.npz", train=VECTORS)
    with pytest.raises(UserError, match=r"an \.npy file does"):
        data.load(make_data(f"arrays:{tmp_path / 'own.npz'}", placement="records"))
