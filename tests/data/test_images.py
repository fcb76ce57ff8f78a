"""A user's folder of images: listed, decoded once, checked, and trained on."""

import os
import shutil
import subprocess
import sys
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
from trainer.errors import UserError
from trainer.evaluation.evaluate import evaluate
from trainer.run import workdir
from trainer.train import train

ROOT = Path(__file__).parents[2]
COUNT = 200
SIDE = 6


def pixels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path, array, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **settings)


def load(folder, *, validation_fraction=0.1, image_size=0, **settings):
    common = {"image_size": image_size, "validation_fraction": validation_fraction}
    return data.load(make_data(f"images:{folder}", **common, **settings))


@pytest.fixture
def folder(tmp_path):
    """200 grey images of 6x6 pixels in two classes, 20 of them to test."""
    for number in range(COUNT):
        part = "test" if number % 10 == 9 else "train"
        kind = "cat" if number % 2 else "dog"
        save(tmp_path / "own" / part / kind / f"{number:03}.png", pixels((SIDE, SIDE), number))
    return tmp_path / "own"


@pytest.fixture
def nothing_is_decoded(monkeypatch):
    def refuse(_, path):
        raise AssertionError(f"{path} is decoded")

    def forbid():
        monkeypatch.setattr(Decoder, "__call__", refuse)

    return forbid


def by_name(dataset):
    """All images of a data set, by the names of their files."""
    found: dict[str, np.ndarray] = {}
    for part in (dataset.train, dataset.validation, dataset.test):
        found |= dict(zip(part.file_names, part.images[:], strict=True))
    return found


@pytest.mark.parametrize("placement", ["auto", "records"])
def test_a_folder_is_read_with_its_parts_labels_and_names(folder, placement):
    own = load(folder, placement=placement)
    assert own.image_shape == (SIDE, SIDE, 1)
    assert [len(own.train), len(own.validation), len(own.test)] == [162, 18, 20]
    assert own.class_names == ("cat", "dog")
    for part in (own.train, own.validation, own.test):
        assert part.labels is not None
        for image, label, name in zip(part.images[:], part.labels, part.file_names, strict=True):
            number = int(Path(name).stem)
            np.testing.assert_array_equal(image[..., 0], pixels((SIDE, SIDE), number))
            assert Path(name).parts[1] == own.class_names[label] == ("dog", "cat")[number % 2]
            assert (Path(name).parts[0] == "test") == (part is own.test)
    assert own.inputs() == {"image_shape": [SIDE, SIDE, 1], "class_names": ["cat", "dog"]}


def test_images_in_their_file_are_the_same_as_in_memory(folder):
    memory, file = load(folder), load(folder, placement="records")
    assert isinstance(memory.train.images, np.ndarray)
    assert isinstance(file.train.images, Records)
    assert file.fingerprint() == memory.fingerprint()
    assert isinstance(load(folder, memory_gib=1e-9).train.images, Records)
    with pytest.raises(UserError, match=r"placement='device'.*auto leaves them in their file"):
        load(folder, memory_gib=1e-9, placement="device")


def test_a_folder_without_parts_is_trained_on_and_tested_on_a_share(tmp_path):
    for number in range(20):
        save(tmp_path / f"{number}.PNG", pixels((4, 5), number))
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    own = load(tmp_path)
    assert [len(own.train), len(own.validation), len(own.test)] == [14, 2, 4]
    assert own.train.labels is None
    assert own.class_names == ()


def test_what_lies_deeper_in_a_class_is_of_that_class(tmp_path):
    for name in ("cat/a.png", "cat/old/1/b.png", "dog/c.png", "dog/.thumbnails/d.png"):
        save(tmp_path / "train" / name, pixels((4, 4)))
    listing = images.scan(tmp_path)
    assert listing.files == ("train/cat/a.png", "train/cat/old/1/b.png", "train/dog/c.png")
    assert listing.labels is not None
    assert listing.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "gif"])
def test_each_kind_of_file_is_read(tmp_path, suffix):
    smooth = np.full((8, 8, 3), 90, np.uint8)
    save(tmp_path / f"one.{suffix}", smooth)
    read = Decoder(channels=3)(tmp_path / f"one.{suffix}")
    np.testing.assert_allclose(read, smooth, atol=2)


def test_nothing_is_decoded_twice(folder, nothing_is_decoded, capsys):
    first = load(folder)
    assert "decoding 200 images" in capsys.readouterr().out
    nothing_is_decoded()
    again = load(folder)
    assert again.fingerprint() == first.fingerprint()
    assert capsys.readouterr().out == ""


def test_a_changed_folder_is_decoded_anew_and_takes_the_place_of_the_old(folder):
    first = load(folder)
    kept = list((folder / image_cache.FOLDER).glob("*.npy"))
    path = folder / "train" / "dog" / "000.png"
    save(path, pixels((SIDE, SIDE), 1000))
    assert load(folder).fingerprint() != first.fingerprint()
    save(path, pixels((SIDE, SIDE), 0))
    os.utime(path, ns=(1, 1))
    assert load(folder).fingerprint() == first.fingerprint()
    now = list((folder / image_cache.FOLDER).glob("*.npy"))
    assert len(now) == len(kept) == 1
    assert now != kept
    path.unlink()
    assert len(load(folder).train) < len(first.train)


def test_a_file_that_was_cut_is_made_anew(folder):
    first = load(folder)
    (kept,) = (folder / image_cache.FOLDER).glob("*.npy")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert load(folder).fingerprint() == first.fingerprint()


def test_each_way_to_decode_is_kept_beside_the_others(folder, nothing_is_decoded):
    ways: list[dict[str, Any]] = [
        {},
        {"image_size": 4},
        {"image_size": 4, "fit": "crop"},
        {"channels": 3},
    ]
    fingerprints = [load(folder, **way).fingerprint() for way in ways]
    nothing_is_decoded()
    assert [load(folder, **way).fingerprint() for way in ways] == fingerprints


def test_what_is_decoded_can_be_kept_elsewhere(folder, tmp_path, nothing_is_decoded):
    other = shutil.copytree(folder, tmp_path / "other")  # the same names, sizes and times
    save(other / "train" / "dog" / "000.png", pixels((SIDE, SIDE), 1000))
    cache = str(tmp_path / "cache")
    fingerprints = [load(one, cache_dir=cache).fingerprint() for one in (folder, other)]
    assert fingerprints[0] != fingerprints[1]
    assert not (folder / image_cache.FOLDER).exists()
    nothing_is_decoded()
    assert [load(one, cache_dir=cache).fingerprint() for one in (folder, other)] == fingerprints


def test_a_folder_that_cannot_be_written_is_told(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written \(.*\); data.cache_dir=DIR keeps"):
        load(folder, cache_dir=str(tmp_path / "file"))


def test_an_image_that_cannot_be_read_leaves_nothing_behind(folder):
    path = folder / "train" / "dog" / "100.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"dog/100\.png cannot be read as an image \(.+\)$"):
        load(folder)
    assert [kept.name for kept in (folder / image_cache.FOLDER).iterdir()] == [".lock"]


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    save(tmp_path / "a.png", pixels((20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(UserError, match=r"a\.png cannot be read.*exceeds limit of 300 pixels"):
        load(tmp_path)


def grey_and_colour(folder):
    save(folder / "a.png", pixels((4, 4)))
    save(folder / "b.png", pixels((4, 4, 3)))


def two_sizes(folder):
    save(folder / "a.png", pixels((4, 5)))
    save(folder / "b.png", pixels((6, 5)))


def of_folders(*names):
    def make(folder):
        for name in names:
            if "." in name:
                save(folder / name, pixels((4, 4)))
            else:
                (folder / name).mkdir(parents=True)

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "own holds no images: no file that ends in .png, .jpg"),
        (lambda folder: folder.rmdir(), "own is no folder; data.name=images:DIR needs one"),
        (of_folders("train", "test/a.png"), "own/train holds no images"),
        (of_folders("train/a.png", "test"), "own/test holds no images"),
        (of_folders("test/a.png"), "own holds a folder test, but no folder train"),
        (of_folders("cat/a.png", "dog"), "own/dog is a class without images"),
        (of_folders("cat/a.png", "b.png"), "such as b.png, beside folders, such as cat"),
        (of_folders("train/cat/a.png", "test/dog/a.png"), "among those of {}/train, but 'dog' is"),
        (of_folders("train/cat/a.png", "test/a.png"), "but one of the two has none"),
        (two_sizes, "a.png is 4x5 pixels, b.png 6x5 (height x width); set data.image_size"),
        (grey_and_colour, "a.png is grey, b.png in colour; set data.channels to 1 or 3"),
        (lambda folder: (folder / "a.png").symlink_to("none"), "a.png cannot be read: No such"),
        (of_folders("a.png"), "1 examples cannot give up a share"),
    ],
)
def test_a_folder_that_does_not_serve_is_told_in_one_line(tmp_path, make, message):
    (tmp_path / "own").mkdir()
    make(tmp_path / "own")
    with pytest.raises(UserError) as error:
        load(tmp_path / "own")
    assert message.format(tmp_path / "own") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("images:", {}, "it is written images:DIR"),
        ("images:x", {"channels": 2}, "data.channels=2 is not known; allowed: 0, 1, 3"),
        ("images:x", {"fit": "zoom"}, "data.fit='zoom' is not known; allowed: stretch, crop, pad"),
        ("images:x", {"fit": "crop"}, "data.fit='crop' needs data.image_size"),
        ("digits", {"channels": 3}, "data.channels=3 is not allowed with 'digits'; it is of imag"),
        ("mnist", {"fit": "pad"}, "data.fit='pad' is not allowed with 'mnist'"),
    ],
)
def test_settings_that_images_cannot_have_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        data.load(make_data(name, **settings))


def test_pictures_become_grey_or_colour_as_told(tmp_path):
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


def test_what_is_no_square_is_stretched_cropped_or_padded(tmp_path):
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


def test_a_photograph_stands_upright(tmp_path):
    flags = Image.Exif()
    flags[0x0112] = 6  # the camera was turned by a quarter
    save(tmp_path / "a.png", np.array([[1, 2]], np.uint8), exif=flags)
    assert Decoder()(tmp_path / "a.png")[..., 0].tolist() == [[1], [2]]


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=4, max_size=8),
    image_size=st.integers(1, 7),
    channels=st.sampled_from([0, 1, 3]),
    fit=st.sampled_from(images.FITS),
)
def test_what_is_kept_equals_what_is_decoded(tmp_path_factory, sizes, image_size, channels, fit):
    folder = tmp_path_factory.mktemp("own")
    for number, size in enumerate(sizes):
        save(folder / f"{number}.png", pixels((*size, 3), number))
    own = load(folder, image_size=image_size, channels=channels, fit=fit, validation_fraction=0.4)
    decoder = Decoder(image_size, channels, fit)
    found = by_name(own)
    assert len(found) == len(sizes)
    for name, image in found.items():
        np.testing.assert_array_equal(image, decoder(folder / name))


RACER = """
import sys
from pathlib import Path
from trainer.data.files.images import Decoder
from trainer.data.files.image_cache import read
print(read(Path(sys.argv[1]), Decoder()).images.sum())
"""


@pytest.mark.slow
def test_of_two_processes_at_once_one_decodes(folder):
    command = [sys.executable, "-c", RACER, folder]
    racers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [racer.communicate()[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sum("decoding" in output for output in outputs) == 1
    assert outputs[0].splitlines()[-1] == outputs[1].splitlines()[-1]


@pytest.mark.slow
def test_a_run_on_a_folder_is_trained_measured_and_found_again_elsewhere(
    digits_config, folder, tmp_path
):
    digits_config.data.name = f"images:{folder}"
    digits_config.num_epochs = 1.0
    run = tmp_path / "run"
    train(digits_config, str(run))
    metrics = evaluate(str(run))
    assert {"mse", "ssim", "probe_accuracy"} <= metrics.keys()
    inputs = workdir.read(run).inputs
    assert inputs is not None
    assert inputs["class_names"] == ["cat", "dog"]
    moved = folder.rename(tmp_path / "moved")
    digits_config.data.name = f"images:{moved}"
    digits_config.data.cache_dir = str(tmp_path / "cache")
    digits_config.num_epochs = 2.0
    train(digits_config, str(run))
    save(moved / "train" / "dog" / "000.png", pixels((SIDE, SIDE), 1000))
    with pytest.raises(UserError, match="holds a run on other data"):
        train(digits_config, str(run))


def test_a_full_disk_is_told_and_leaves_nothing(folder, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        load(folder)
    assert [kept.name for kept in (folder / image_cache.FOLDER).iterdir()] == [".lock"]
