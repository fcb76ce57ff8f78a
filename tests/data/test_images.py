"""A user's folder of images is listed, decoded once, and trained on, or refused in one line."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer import data
from trainer.config import make_data
from trainer.data.dataset import Records
from trainer.data.files import image_cache, images
from trainer.data.files.images import Decoder

COUNT = 60
SIDE = 6


def pixels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path, array, **keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **keys)


@pytest.fixture
def load():
    def load(folder, **keys):
        keys = {"validation_fraction": 0.1} | keys
        return data.load(make_data(f"images:{folder}", **keys))

    return load


@pytest.fixture
def folder(tmp_path):
    """60 grey images of 6x6 pixels in two classes, 6 of them to test."""
    for number in range(COUNT):
        split = "test" if number % 10 == 9 else "train"
        kind = "cat" if number % 2 else "dog"
        save(tmp_path / "own" / split / kind / f"{number:03}.png", pixels((SIDE, SIDE), number))
    return tmp_path / "own"


@pytest.fixture
def forbid_decoding(monkeypatch):
    def refuse(_, path):
        raise AssertionError(f"{path} is decoded")

    return lambda: monkeypatch.setattr(Decoder, "__call__", refuse)


def cached(folder):
    return [path.name for path in (folder / image_cache.FOLDER).iterdir()]


@pytest.mark.parametrize(
    ("settings", "rows"),
    [({}, np.ndarray), ({"placement": "records"}, Records), ({"memory_gib": 1e-9}, Records)],
)
def test_a_folder_is_read_with_its_splits_labels_and_names(load, folder, settings, rows):
    own = load(folder, **settings)
    assert isinstance(own.train.images, rows)
    assert [len(own.train), len(own.validation), len(own.test)] == [49, 5, 6]
    for split in (own.train, own.validation, own.test):
        for image, label, name in zip(split.images[:], split.labels, split.file_names, strict=True):
            number = int(Path(name).stem)
            np.testing.assert_array_equal(image[..., 0], pixels((SIDE, SIDE), number))
            assert Path(name).parts[1] == own.class_names[label] == ("dog", "cat")[number % 2]
            assert (Path(name).parts[0] == "test") == (split is own.test)
    assert own.inputs() == {"image_shape": [SIDE, SIDE, 1], "class_names": ["cat", "dog"]}
    assert own.fingerprint() == load(folder).fingerprint()


def test_a_folder_that_must_fit_the_memory_and_does_not_is_refused(load, folder, refused):
    assert "auto leaves" in refused(load, folder, memory_gib=1e-9, placement="device")


def test_a_folder_without_splits_is_trained_on_and_tested_on_a_share(load, tmp_path):
    for number in range(20):
        save(tmp_path / f"{number}.PNG", pixels((4, 5), number))
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    own = load(tmp_path)
    assert [len(own.train), len(own.validation), len(own.test)] == [14, 2, 4]
    assert own.train.labels is None
    assert own.class_names == ()


def test_a_subfolder_of_a_class_is_of_that_class(tmp_path):
    for name in ("cat/a.png", "cat/old/1/b.png", "dog/c.png", "dog/.thumbnails/d.png"):
        save(tmp_path / "train" / name, pixels((4, 4)))
    listing = images.scan(tmp_path)
    assert listing.files == ("train/cat/a.png", "train/cat/old/1/b.png", "train/dog/c.png")
    assert listing.labels is not None
    assert listing.labels.tolist() == [0, 0, 1]


def test_each_way_to_decode_is_cached_and_nothing_is_decoded_twice(
    load, folder, forbid_decoding, capsys
):
    ways: list[dict[str, Any]] = [
        {},
        {"image_size": 4},
        {"image_size": 4, "fit": "crop"},
        {"channels": 3},
    ]
    fingerprints = [load(folder, **way).fingerprint() for way in ways]
    assert capsys.readouterr().out.count("decoding 60 images") == 4
    forbid_decoding()
    assert [load(folder, **way).fingerprint() for way in ways] == fingerprints
    assert capsys.readouterr().out == ""


def test_a_process_waits_for_another_and_does_not_decode_again(
    load, folder, hold_lock, forbid_decoding
):
    first = load(folder)
    (path,) = (folder / image_cache.FOLDER).glob("*.npy")
    elsewhere = path.rename(folder.parent / "cache.npy")
    hold_lock(path.with_name(".lock"), lambda: elsewhere.rename(path))
    forbid_decoding()
    assert load(folder).fingerprint() == first.fingerprint()


def test_a_changed_folder_or_cache_is_decoded_again_in_place_of_the_old(load, folder):
    first, before = load(folder), cached(folder)
    path = folder / "train" / "dog" / "000.png"
    save(path, pixels((SIDE, SIDE), 1000))
    assert load(folder).fingerprint() != first.fingerprint()
    save(path, pixels((SIDE, SIDE), 0))
    os.utime(path, ns=(1, 1))
    assert load(folder).fingerprint() == first.fingerprint()
    assert len(cached(folder)) == len(before) == 2  # with the lock
    assert cached(folder) != before
    (cache,) = (folder / image_cache.FOLDER).glob("*.npy")
    cache.write_bytes(cache.read_bytes()[:-1])
    assert load(folder).fingerprint() == first.fingerprint()
    path.unlink()
    assert len(load(folder).train) < len(first.train)


def test_two_folders_can_have_their_caches_in_one_place(load, folder, tmp_path, forbid_decoding):
    other = shutil.copytree(folder, tmp_path / "other")  # the same names, sizes and times
    save(other / "train" / "dog" / "000.png", pixels((SIDE, SIDE), 1000))
    cache = str(tmp_path / "cache")
    fingerprints = [load(one, cache_dir=cache).fingerprint() for one in (folder, other)]
    assert fingerprints[0] != fingerprints[1]
    assert not (folder / image_cache.FOLDER).exists()
    forbid_decoding()
    assert [load(one, cache_dir=cache).fingerprint() for one in (folder, other)] == fingerprints


def test_a_cache_that_cannot_be_written_is_refused(load, folder, tmp_path, refused):
    (tmp_path / "file").touch()
    assert "data.cache_dir=DIR" in refused(load, folder, cache_dir=str(tmp_path / "file"))


def test_a_decoding_that_fails_leaves_nothing(load, folder, refused, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left on device" in refused(load, folder)
    assert cached(folder) == [".lock"]
    path = folder / "train" / "dog" / "040.png"
    path.write_bytes(path.read_bytes()[:60])
    assert f"{path} cannot be read as an image" in refused(load, folder)
    assert cached(folder) == [".lock"]


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    load, tmp_path, refused, monkeypatch
):
    save(tmp_path / "a.png", pixels((20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert "exceeds limit of 300 pixels" in refused(load, tmp_path)


def grey_and_colour(folder):
    save(folder / "a.png", pixels((4, 4)))
    save(folder / "b.png", pixels((4, 4, 3)))


def two_sizes(folder):
    save(folder / "a.png", pixels((4, 5)))
    save(folder / "b.png", pixels((6, 5)))


def link_to_nothing(folder):
    (folder / "a.png").symlink_to("none")


def files(*contents):
    def make(folder):
        for number, content in enumerate(contents):
            (folder / f"{number}.png").write_bytes(content)

    return make


def tree(*names):
    def make(folder):
        for name in names:
            if "." in name:
                save(folder / name, pixels((4, 4)))
            else:
                (folder / name).mkdir(parents=True)

    return make


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda _: None, "{} holds no images"),
        (lambda folder: folder.rmdir(), "{} is no folder"),
        (tree("train", "test/a.png"), "{}/train holds no images"),
        (tree("train/a.png", "test"), "{}/test holds no images"),
        (tree("test/a.png"), "{} holds a folder test, but no folder train"),
        (tree("cat/a.png", "dog"), "{}/dog is a class without images"),
        (tree("cat/a.png", "b.png"), "such as b.png, next to folders, such as cat"),
        (tree("train/cat/a.png", "test/dog/a.png"), "'dog'"),
        (tree("train/cat/a.png", "test/a.png"), "one of the two has none"),
        (two_sizes, "a.png is 4x5 pixels, b.png 6x5"),
        (grey_and_colour, "a.png is grey, b.png in colour"),
        (link_to_nothing, "{}/a.png cannot be read"),
        (files(b""), "{}/0.png cannot be read as an image"),
        (files(b"<html>"), "{}/0.png cannot be read as an image"),
        (files(b"\x89PNG\r\n\x1a\n"), "{}/0.png cannot be read as an image"),
        (tree("a.png"), "1 examples"),
    ],
)
def test_a_folder_that_does_not_serve_is_refused(load, tmp_path, refused, make, named):
    (tmp_path / "own").mkdir()
    make(tmp_path / "own")
    assert named.format(tmp_path / "own") in refused(load, tmp_path / "own")


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "gif"])
def test_each_format_is_read(tmp_path, suffix):
    smooth = np.full((8, 8, 3), 90, np.uint8)
    save(tmp_path / f"one.{suffix}", smooth)
    read = Decoder(channels=3)(tmp_path / f"one.{suffix}")
    np.testing.assert_allclose(read, smooth, atol=2)


def test_images_become_grey_or_colour_as_asked(tmp_path):
    grey_and_colour(tmp_path)
    colour, grey = pixels((4, 4, 3)).astype(float), pixels((4, 4))
    np.testing.assert_array_equal(Decoder()(tmp_path / "a.png")[..., 0], grey)
    np.testing.assert_array_equal(Decoder()(tmp_path / "b.png"), colour)
    as_colour = Decoder(channels=3)(tmp_path / "a.png")
    np.testing.assert_array_equal(as_colour, np.repeat(grey[..., np.newaxis], 3, axis=-1))
    luma = colour @ [0.299, 0.587, 0.114]  # ITU-R 601
    np.testing.assert_allclose(Decoder(channels=1)(tmp_path / "b.png")[..., 0], luma, atol=1)


def test_rare_kinds_of_pixels_become_bytes(tmp_path):
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    save(tmp_path / "deep.png", deep)
    assert Decoder()(tmp_path / "deep.png").ravel().tolist() == [0, 1, 128, 255]
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "bit.png")
    assert Decoder()(tmp_path / "bit.png").ravel().tolist() == [0, 255]
    rgba = pixels((3, 3, 4))
    save(tmp_path / "alpha.png", rgba)
    np.testing.assert_array_equal(Decoder()(tmp_path / "alpha.png"), rgba[..., :3])
    Image.fromarray(rgba[..., :3]).convert("P").save(tmp_path / "palette.png")
    assert Decoder()(tmp_path / "palette.png").shape == (3, 3, 3)


def test_another_aspect_ratio_is_stretched_cropped_or_padded(tmp_path):
    # Three squares of one brightness each, side by side.
    save(tmp_path / "wide.png", np.repeat(np.array([[10, 100, 200]], np.uint8), 8, 1).repeat(8, 0))
    made = {
        fit: Decoder(image_size=8, fit=fit)(tmp_path / "wide.png")[..., 0] for fit in images.FITS
    }
    assert {image.shape for image in made.values()} == {(8, 8)}
    assert (made["crop"] == 100).all()
    assert made["stretch"][:, 0].tolist() == [10] * 8
    assert made["stretch"][:, -1].tolist() == [200] * 8
    assert (made["pad"][[0, 1, -2, -1]] == 0).all()
    assert made["pad"][4, 0] == 10
    assert made["pad"][4, -1] == 200
    assert Decoder(image_size=(4, 8))(tmp_path / "wide.png").shape == (4, 8, 1)


def test_a_photograph_stands_upright(tmp_path):
    flags = Image.Exif()
    flags[0x0112] = 6  # the camera was turned by a quarter
    save(tmp_path / "a.png", np.array([[1, 2]], np.uint8), exif=flags)
    assert Decoder()(tmp_path / "a.png")[..., 0].tolist() == [[1], [2]]


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=4, max_size=8),
    image_size=st.integers(1, 7),
    channels=st.sampled_from([0, 1, 3]),
    fit=st.sampled_from(images.FITS),
)
def test_the_cache_equals_what_is_decoded(tmp_path_factory, sizes, image_size, channels, fit):
    folder = tmp_path_factory.mktemp("own")
    for number, size in enumerate(sizes):
        save(folder / f"{number}.png", pixels((*size, 3), number))
    decoder = Decoder(image_size, channels, fit)
    found = image_cache.read(folder, decoder)
    for name, image in zip(found.files, found.images, strict=True):
        np.testing.assert_array_equal(image, decoder(folder / name))
