"""Folders of images in the ways that people keep them."""

import numpy as np
import pytest
from PIL import Image

from trainer import data
from trainer.config import make_data
from trainer.data.files.decoder import Decoder, Unreadable
from trainer.errors import UserError


def save(path, value=7, size=(4, 4), **keys):
    """Writes an image of one brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path, **keys)


def decoded(path, *keys, **named):
    image = Decoder(*keys, **named)(path)
    assert isinstance(image, np.ndarray), image
    return image


def load(folder, **keys):
    return data.load(make_data(f"images:{folder}", **keys))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tiff", "avif", "heic"])
def test_every_common_format_is_read(tmp_path, suffix):
    save(tmp_path / f"a.{suffix}", 200)
    assert abs(int(decoded(tmp_path / f"a.{suffix}", channels=1)[0, 0, 0]) - 200) <= 3


def test_files_of_other_kinds_are_counted_and_named(tmp_path):
    for number in range(5):
        save(tmp_path / f"{number}.png")
    for name in ("a.svg", "b.svg", "notes.txt"):
        (tmp_path / name).touch()
    (note,) = load(tmp_path, validation_fraction=0.3).notes
    assert "(3)" in note and ".svg 2" in note and ".txt 1" in note


def test_files_and_folders_of_systems_are_neither_images_nor_classes_nor_counted(tmp_path):
    for number in range(8):
        save(tmp_path / "cd"[number % 2] / f"{number}.png")
    files = ("Thumbs.db", "thumbs.db", ".DS_Store", "Desktop.ini", "._0.png", "Icon\r", ".a.svg")
    folders = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", ".thumbnails")
    for name in (*files, *(f"{folder}/x.jpg" for folder in folders)):
        for place in (tmp_path, tmp_path / "c"):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).touch()
    own = load(tmp_path, validation_fraction=0.3)
    assert own.notes == () and own.class_names == ("c", "d")
    assert sum(map(len, (own.train, own.validation, own.test))) == 8


@pytest.mark.parametrize(
    "names", [("Train", "VAL", "Testing"), ("training", "valid", "test"), ("train", "validation")]
)
def test_splits_are_known_by_their_usual_names(tmp_path, names):
    for number, name in enumerate(names):
        for image in range(4 + number):
            save(tmp_path / name / f"{image}.png", 10 * number)
    own = load(tmp_path)
    assert len(own.validation) == 5 and set(own.validation.images[:].ravel()) == {10}
    if len(names) == 3:
        assert (len(own.train), len(own.test)) == (4, 6)


def test_defects_that_only_the_test_has_are_classes(tmp_path):
    for folder, count in (("train/good", 9), ("test/good", 2), ("test/crack", 3)):
        for image in range(count):
            save(tmp_path / folder / f"{image}.png", image)
    own = load(tmp_path, validation_fraction=0.2)
    assert own.class_names == ("good", "crack")
    assert set(own.train.labels) == {0} and sorted(own.test.labels) == [0, 0, 1, 1, 1]
    assert "crack" in own.notes[0]


def test_loose_images_next_to_folders_are_taken_without_classes_on_request(tmp_path):
    for name in ("a.png", "cat/b.png", "cat/c.png", "dog/d.png", "dog/e.png"):
        save(tmp_path / name)
    with pytest.raises(UserError, match=r"a\.png.*data\.class_folders"):
        load(tmp_path)
    own = load(tmp_path, class_folders=False, validation_fraction=0.3)
    assert own.class_names == () and own.train.labels is None
    assert sum(map(len, (own.train, own.validation, own.test))) == 5


def test_unreadable_files_are_all_named_and_left_out_without_decoding_again(tmp_path, monkeypatch):
    for number in range(6):
        save(tmp_path / "train" / f"{number}.png", number)
    for name in ("broken.png", "empty.jpg"):
        (tmp_path / "train" / name).write_bytes(b"no image"[: 8 * (name == "broken.png")])
    with pytest.raises(UserError) as error:
        load(tmp_path)
    for part in ("broken.png", "empty.jpg", "data.skip_unreadable"):
        assert part in str(error.value)
    monkeypatch.setattr(Decoder, "__call__", lambda *_: pytest.fail("an image is decoded again"))
    own = load(tmp_path, skip_unreadable=True, validation_fraction=0.3)
    files = [name for split in (own.train, own.validation, own.test) for name in split.file_names]
    assert sorted(files) == [f"train/{number}.png" for number in range(6)]
    for split in (own.train, own.validation, own.test):
        for name, image in zip(split.file_names, split.images[:], strict=True):
            assert f"train/{image[0, 0, 0]}.png" == name
    assert "broken.png" in own.notes[0]


def test_files_of_several_frames_are_named_each_time_and_their_first_frame_is_read(tmp_path):
    for number in range(6):
        save(tmp_path / f"{number}.png", number)
    pages = [Image.new("L", (4, 4), value) for value in (100, 200, 250)]
    for name in ("c/pages.tif", "moving.gif", "moving.webp"):
        save(tmp_path / name, 100, save_all=True, append_images=pages[1:])
    save(tmp_path / "still.gif")
    for _ in range(2):  # decodes them, reads them from the cache
        own = load(tmp_path, class_folders=False, channels=1, validation_fraction=0.3)
        (note,) = own.notes
        assert note.endswith("page of 3 files is read: c/pages.tif, moving.gif, moving.webp")
    pixels = {
        name: image[0, 0, 0]
        for split in (own.train, own.validation, own.test)
        for name, image in zip(split.file_names, split.images[:], strict=True)
    }
    assert abs(int(pixels["c/pages.tif"]) - 100) <= 1 and pixels["1.png"] == 1


def test_sizes_and_channels_that_differ_and_broken_files_are_named_with_all_keys_at_once(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", size=(6, 5))
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png")
    with pytest.raises(
        UserError, match=r"2 sizes from 4x4 to 5x6.*data\.image_size and data\.chan"
    ):
        load(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(
        UserError, match=r"channels=1 or 3; 1 files cannot be read \(text\.png\), which data\.skip"
    ):
        load(tmp_path)


def test_a_photograph_is_scaled_up_to_the_limit_of_pixels(tmp_path):
    save(tmp_path / "large.png", 9, (12_000, 9_000))
    assert (decoded(tmp_path / "large.png", 4) == 9).all()
    found = Decoder(image_size=4, max_megapixels=100)(tmp_path / "large.png")
    assert isinstance(found, Unreadable) and "data.max_megapixels" in found.reason


def test_the_white_of_16_bits_can_be_lower(tmp_path):
    deep = np.array([[0, 1024, 4095]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert decoded(tmp_path / "a.png", white=4095).ravel().tolist() == [0, 64, 255]


def test_transparency_and_padding_have_the_background(tmp_path):
    image = Image.new("RGBA", (2, 4), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.save(tmp_path / "a.png")
    white = decoded(tmp_path / "a.png", background="white")
    assert white[0, 0].tolist() == [255] * 3 and white[0, 1].tolist() == [255, 0, 0]
    padded = decoded(tmp_path / "a.png", 4, 3, "pad", background="#0000ff")
    assert padded[:, 0].tolist() == [[0, 0, 255]] * 4


def test_a_jpeg_decoded_at_a_fraction_looks_like_the_whole(tmp_path, monkeypatch):
    x, y = np.mgrid[:256, :320]
    smooth = (127 + 60 * np.sin(x / 40) + 60 * np.cos(y / 30)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    whole = Image.open(tmp_path / "a.jpg").resize((32, 32), Image.Resampling.BILINEAR)
    sizes = []
    resize = Image.Image.resize

    def resize_seen(self, *args):
        sizes.append(self.size)
        return resize(self, *args)

    monkeypatch.setattr(Image.Image, "resize", resize_seen)
    scaled = decoded(tmp_path / "a.jpg", 32)[..., 0]
    assert sizes == [(80, 64)]  # twice the size needed, or more
    assert np.abs(scaled.astype(int) - np.asarray(whole)).mean() < 1
