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

from tests.data.conftest import sizes_of, splits_of
from trainer.config import keys
from trainer.data.dataset import Records
from trainer.data.files import image_cache, image_folder
from trainer.data.files.decoder import Decoder
from trainer.data.sources import images

SIDE = 6
FITS = keys(images.Settings)["fit"][1].choices
CHANGED = "train/dog/000.png"


def pixels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path, array, **keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **keys)


def decoded(path, decoder):
    image = decoder(path)
    assert isinstance(image, np.ndarray), image
    return image


@pytest.fixture
def load(load):
    return lambda folder, **keys: load(f"images:{folder}", validation_fraction=0.1, **keys)


@pytest.fixture
def folder(tmp_path):
    """60 grey images of 6x6 pixels in two classes, 6 of them to test."""
    for number in range(60):
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
    assert sizes_of(own) == [49, 5, 6]
    for split in splits_of(own):
        for image, label, name in zip(split.images[:], split.labels, split.file_names, strict=True):
            number = int(Path(name).stem)
            np.testing.assert_array_equal(image[..., 0], pixels((SIDE, SIDE), number))
            assert Path(name).parts[1] == own.class_names[label] == ("dog", "cat")[number % 2]
            assert (Path(name).parts[0] == "test") == (split is own.test)
    assert own.inputs() == {"image_shape": [SIDE, SIDE, 1], "class_names": ["cat", "dog"]}
    assert own.fingerprint() == load(folder).fingerprint()


def test_a_folder_without_splits_is_trained_on_and_tested_on_a_share(load, tmp_path):
    for number in range(20):
        save(tmp_path / f"{number}.PNG", pixels((4, 5), number))
    for name in ("notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    own = load(tmp_path)
    assert sizes_of(own) == [14, 2, 4]
    assert (own.train.labels, own.class_names) == (None, ())


def test_a_subfolder_of_a_class_is_of_that_class(tmp_path):
    for name in ("cat/a.png", "cat/old/1/b.png", "dog/c.png", "dog/.thumbnails/d.png"):
        save(tmp_path / "train" / name, pixels((4, 4)))
    listing = image_folder.scan(tmp_path)
    assert listing.files == ("train/cat/a.png", "train/cat/old/1/b.png", "train/dog/c.png")
    assert listing.labels is not None
    assert listing.labels.tolist() == [0, 0, 1]


def test_each_way_to_decode_is_cached_and_nothing_is_decoded_twice(
    load, folder, tmp_path, forbid_decoding, capsys
):
    other = shutil.copytree(folder, tmp_path / "other")  # the same names, sizes and times
    save(other / CHANGED, pixels((SIDE, SIDE), 1000))
    cache = {"cache_dir": str(tmp_path / "cache")}  # for both folders
    ways: list[tuple[Path, dict[str, Any]]] = [
        *((other, cache), (folder, cache), (folder, {"image_size": 4}), (folder, {"channels": 3})),
        (folder, {"image_size": 4, "fit": "crop"}),
    ]
    fingerprints = [load(path, **way).fingerprint() for path, way in ways]
    assert len(set(fingerprints)) == 4  # a square is not cropped
    assert capsys.readouterr().out.count("decoding 60 images") == len(ways)
    assert not (other / image_cache.FOLDER).exists()
    forbid_decoding()
    assert [load(path, **way).fingerprint() for path, way in ways] == fingerprints


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
    path = folder / CHANGED
    save(path, pixels((SIDE, SIDE), 1000))
    assert load(folder).fingerprint() != first.fingerprint()
    save(path, pixels((SIDE, SIDE), 0))
    os.utime(path, ns=(1, 1))
    assert load(folder).fingerprint() == first.fingerprint()
    assert len(cached(folder)) == len(before) == 3  # with the lock and the list of broken files
    assert cached(folder) != before
    (cache,) = (folder / image_cache.FOLDER).glob("*.npy")
    cache.write_bytes(cache.read_bytes()[:-1])
    assert load(folder).fingerprint() == first.fingerprint()
    path.unlink()
    assert len(load(folder).train) < len(first.train)


def test_a_decoding_that_fails_leaves_nothing(load, folder, tmp_path, refused, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").touch()
    assert "data.cache_dir=DIR" in refused(load, folder, cache_dir=str(tmp_path / "file"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left on device" in refused(load, folder)
    assert cached(folder) == [".lock"]


def test_a_folder_that_must_fit_the_memory_and_does_not_is_refused(load, folder, refused):
    assert "auto leaves" in refused(load, folder, memory_gib=1e-9, placement="device")


def tree(*names, other=(4, 4)):
    """Makes folders and images, the last one of another shape."""

    def make(folder):
        for name in names:
            if "." in name:
                save(folder / name, pixels(other if name == names[-1] else (4, 4)))
            else:
                (folder / name).mkdir(parents=True)

    return make


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (tree(), "{} holds no images"),
        (lambda folder: folder.rmdir(), "{} is not a folder"),
        (tree("train/a.png", "test"), "{}/test holds no images"),
        (tree("test/a.png"), "{} holds the folder 'test', but none named train"),
        (tree("cat/a.png", "dog"), "{}/dog is a class without images"),
        (tree("cat/a.png", "b.png"), "such as b.png, next to folders, such as cat"),
        (tree("train/cat/a.png", "test/a.png"), "some have class folders"),
        (tree("a.png", "b.png", other=(6, 4)), "from 4x4 to 6x4"),
        (tree("a.png", "b.png", other=(4, 4, 3)), "1 in colour and 1 grey"),
        (lambda folder: (folder / "a.png").symlink_to("none"), "{}/a.png cannot be read"),
        (lambda folder: (folder / "0.png").touch(), "0.png"),
        (tree("a.png"), "1 examples"),
    ],
)
def test_a_folder_that_does_not_serve_is_refused(load, tmp_path, refused, make, named):
    (tmp_path / "own").mkdir()
    make(tmp_path / "own")
    assert named.format(tmp_path / "own") in refused(load, tmp_path / "own")


def test_every_kind_of_pixels_becomes_bytes_grey_or_in_colour(tmp_path):
    grey, colour, path = pixels((4, 4)), pixels((4, 4, 4)), tmp_path / "a.png"
    luma = colour[..., :3] @ [0.299, 0.587, 0.114]  # ITU-R 601
    deep = np.array([[0, 300, 32896, 65535]], np.uint16)
    bits = Image.fromarray(grey).convert("1")
    for stored, channels, expected in (
        (Image.fromarray(grey), 0, grey[..., None]),
        (Image.fromarray(grey), 3, np.repeat(grey[..., None], 3, axis=2)),
        (Image.fromarray(colour[..., :3]), 0, colour[..., :3]),
        (Image.fromarray(colour[..., :3]), 1, luma[..., None]),
        (Image.fromarray(deep), 0, np.array([[[0], [1], [128], [255]]])),
        (bits, 0, 255 * np.asarray(bits)[..., None]),
        (bits.convert("P"), 0, np.repeat(255 * np.asarray(bits)[..., None], 3, axis=2)),
    ):
        stored.save(path)
        read = decoded(path, Decoder(channels=channels))
        assert read.dtype == np.uint8
        np.testing.assert_allclose(read, expected, atol=int(channels == 1))


def test_another_aspect_ratio_is_stretched_cropped_or_padded(tmp_path):
    # Three squares of one brightness each, side by side.
    save(tmp_path / "wide.png", np.repeat(np.array([[10, 100, 200]], np.uint8), 8, 1).repeat(8, 0))
    made = {fit: decoded(tmp_path / "wide.png", Decoder(8, fit=fit))[..., 0] for fit in FITS}
    assert {image.shape for image in made.values()} == {(8, 8)}
    assert (made["crop"] == 100).all()
    assert made["stretch"][:, 0].tolist() == [10] * 8
    assert made["stretch"][:, -1].tolist() == [200] * 8
    assert (made["pad"][[0, 1, -2, -1]] == 0).all()
    assert made["pad"][4, 0] == 10
    assert made["pad"][4, -1] == 200
    assert decoded(tmp_path / "wide.png", Decoder((4, 8))).shape == (4, 8, 1)


def test_a_photograph_stands_upright(tmp_path):
    flags = Image.Exif()
    flags[0x0112] = 6  # the camera was turned by a quarter
    save(tmp_path / "a.png", np.array([[1, 2]], np.uint8), exif=flags)
    assert decoded(tmp_path / "a.png", Decoder())[..., 0].tolist() == [[1], [2]]


@settings(max_examples=5, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=4, max_size=8),
    image_size=st.integers(1, 7),
    channels=st.sampled_from([0, 1, 3]),
    fit=st.sampled_from(FITS),
)
def test_the_cache_equals_what_is_decoded(tmp_path_factory, sizes, image_size, channels, fit):
    folder = tmp_path_factory.mktemp("own")
    for number, size in enumerate(sizes):
        save(folder / f"{number}.png", pixels((*size, 3), number))
    decoder = Decoder(image_size, channels, fit)
    listing = image_folder.scan(folder)
    found = image_cache.read(folder, listing, decoder, cache_dir="", skip_unreadable=False)
    for name, image in zip(listing.files, found.images, strict=True):
        np.testing.assert_array_equal(image, decoder(folder / name))
