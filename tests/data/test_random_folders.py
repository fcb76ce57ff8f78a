"""Folders of images made at random from what people have, read by Pillow as the judge."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from trainer.config import make_data
from trainer.data import sources
from trainer.errors import UserError

PARTS = {
    "train": "train", "Training": "train",
    "VAL": "validation", "valid": "validation",
    "test": "test", "Testing": "test",
}  # fmt: skip
LAYOUTS = [(), ("train", "test"), ("Training", "VAL", "Testing"), ("train", "valid", "test")]
MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "BMP": ("1", "L", "P", "RGB"),
    "tiff": ("L", "RGB", "RGBA", "CMYK", "I;16"),
    "webp": ("RGB", "RGBA"),
    "gif": ("L", "P"),
    "jpg": ("L", "RGB", "CMYK"),
}
GREY = ("1", "L", "LA", "I;16")
JUNK = ("Thumbs.db", "notes.txt", ".hidden.png", "__MACOSX/photo.png", "@eaDir/photo.png")
KINDS = [(suffix, mode) for suffix, modes in MODES.items() for mode in modes]


@st.composite
def folders(draw):
    """Files by path as (mode, size), and the keys to read them with."""
    one_size = draw(st.booleans())
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    sides = st.tuples(st.integers(1, 9), st.integers(1, 9))
    size = draw(sides)
    labels = draw(st.sampled_from([("",), ("a class", "b"), ("Z",)]))
    files = {}
    for part in draw(st.sampled_from(LAYOUTS)) or ("",):
        for label in labels:
            for number in range(draw(st.integers(1, 3))):
                suffix, mode = draw(st.sampled_from(kinds))
                path = "/".join([*filter(None, (part, label)), f"{number}.{suffix}"])
                files[path] = mode, size if one_size else draw(sides)
    keys = {
        "image_size": draw(st.sampled_from([0, 0, 5])),
        "channels": draw(st.sampled_from([0, 1, 3])),
        "background": draw(st.sampled_from(["black", "white", "#ff8000"])),
    }
    return files, keys, draw(st.lists(st.sampled_from(JUNK), max_size=2))


def label_of(path):
    folder = path.rpartition("/")[0]
    return "" if folder in PARTS else folder.rpartition("/")[2]


def write(path, mode, size, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 4), np.uint8)
    if mode == "I;16":
        Image.fromarray(values[..., 0].astype(np.uint16) * 256 + values[..., 1]).save(path)
        return
    Image.fromarray(values, "RGBA").convert(mode).save(path)


def by_pillow(path, channels, background, side):
    """The pixels of an image, float64 [H, W, C], and whether it is grey."""
    with Image.open(path) as opened:
        image = opened.copy()
    is_grey = image.mode in GREY or image.mode.startswith("I")
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    rgba = np.asarray(image.convert("RGBA"), np.float64)
    alpha = rgba[..., 3:] / 255
    pixels = alpha * rgba[..., :3] + (1 - alpha) * np.array(ImageColor.getrgb(background))
    if (channels or (1 if is_grey else 3)) == 1:
        pixels = pixels @ np.array([[0.299], [0.587], [0.114]])
    if side:
        bands = [Image.fromarray(band.astype(np.float32)) for band in np.moveaxis(pixels, -1, 0)]
        resized = [band.resize((side, side), Image.Resampling.BILINEAR) for band in bands]
        pixels = np.stack([np.asarray(band) for band in resized], axis=-1)
    return pixels, is_grey


@settings(max_examples=100, deadline=None)
@given(folders())
def test_a_folder_is_read_as_pillow_reads_it_or_refused_with_a_way_out(tmp_path_factory, made):
    files, keys, junk = made
    root = tmp_path_factory.mktemp("own")
    for number, (path, (mode, size)) in enumerate(files.items()):
        write(root / path, mode, size, number)
    for name in junk:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no image")
    wanted = {
        path: by_pillow(root / path, keys["channels"], keys["background"], keys["image_size"])
        for path in files
    }
    shapes = {pixels.shape for pixels, _ in wanted.values()}
    own = make_data(f"images:{root}", **keys)
    try:
        found = sources.find(own.name).read(sources.Request(own))
    except UserError as error:
        assert len(shapes) > 1
        assert "data.channels" in str(error) or "data.image_size" in str(error)
        return
    assert len(shapes) == 1
    read = {}
    for part in ("train", "validation", "test"):
        split = getattr(found, part)
        for row, path in enumerate(split.file_names if split else ()):
            assert PARTS.get(path.partition("/")[0], "train") == part
            if split.labels is not None:
                assert found.class_names[split.labels[row]] == label_of(path)
            read[path] = split.images[row]
    assert read.keys() == files.keys()
    for path, (pixels, _) in wanted.items():
        np.testing.assert_allclose(read[path], pixels, atol=3, err_msg=path)
