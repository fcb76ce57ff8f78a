"""Lists and decodes a user's image files."""

import contextlib
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from trainer.errors import UserError, in_one_line, require
from trainer.storage import paths

SUFFIXES = paths.IMAGE_SUFFIXES
FITS = ("stretch", "crop", "pad")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's modes, by the number of channels
_FORMATS = ("PNG", "JPEG", "BMP", "GIF")
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")  # 16 bits
_MAX_AHEAD = 512  # images decoded before the reader asks for them
_MAX_AHEAD_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Listing:
    """Lists the image files of a folder: the training split, then the test split, each sorted."""

    files: tuple[str, ...]  # relative to the folder
    labels: np.ndarray | None  # int64 [N]
    class_names: tuple[str, ...]  # by label
    train_count: int
    has_test: bool
    digest: str  # of the names, sizes and modification times of the files


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Decodes an image file to pixels of a size and a number of channels.

    `image_size` is the side of a square, or (height, width); 0 keeps the size. `channels` is 1 for
    grey, 3 for colour, 4 for colour with transparency, 0 for grey or colour as the image is. `fit`
    is how to resize an image of another aspect ratio: "stretch", "crop" to the middle, or "pad"
    with black.
    """

    image_size: int | tuple[int, int] = 0
    channels: int = 0
    fit: str = "stretch"

    def __call__(self, path: Path) -> np.ndarray:
        """Returns the pixels of a file, uint8 [H, W, C], upright by its EXIF orientation.

        Raises:
          UserError: the file is not an image that can be read, or has far too many pixels.
        """
        try:
            with Image.open(path, formats=_FORMATS) as image:
                channels = self.channels or (1 if image.mode in _GREY_MODES else 3)
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(self._resize(_convert(upright, channels)))
        except Exception as error:  # each format fails in its own way
            why = getattr(error, "strerror", None) or in_one_line(error)
            raise UserError(f"{path} cannot be read as an image ({why})") from error
        return pixels.reshape(*pixels.shape[:2], channels)

    def _resize(self, image: Image.Image) -> Image.Image:
        side = self.image_size
        size = (side, side) if isinstance(side, int) else side[::-1]
        if side == 0 or image.size == size:
            return image
        resample = Image.Resampling.BILINEAR  # antialiased, as TFDS's images are
        if self.fit == "crop":
            return ImageOps.fit(image, size, resample)
        if self.fit == "pad":
            return ImageOps.pad(image, size, resample, color=0)
        return image.resize(size, resample)


def decode(folder: Path, files: Sequence[str], decoder: Decoder) -> Iterator[np.ndarray]:
    """Yields the pixels of the files in their order, decoded by a thread for each core.

    Raises:
      UserError: an image cannot be read.
    """
    threads = os.cpu_count() or 1
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        first = decoder(folder / files[0])
        step = max(threads, min(_MAX_AHEAD, _MAX_AHEAD_BYTES // first.nbytes))
        for start in range(0, len(files), step):
            yield from pool.map(lambda name: decoder(folder / name), files[start : start + step])


def is_image(name: str) -> bool:
    """Returns whether a file of this name is an image."""
    return name.lower().endswith(SUFFIXES)


def names(folder: Path) -> list[str]:
    """Returns the image files in a folder and its subfolders, sorted, without hidden ones.

    Raises:
      UserError: the folder cannot be read.
    """
    with _readable(folder):
        return [name for name, _ in _walk(folder) if is_image(name)]


def scan(folder: Path) -> Listing:
    """Lists the images of `folder/train` and, if it is there, `folder/test`.

    Without these two folders, all images of `folder` are training images. The subfolders of a split
    are classes, labelled 0, 1, ... in the order of their names. Hidden files and folders are left
    out.

    Raises:
      UserError: the folder cannot be read, holds no images, or holds images next to class folders.
    """
    require(folder.is_dir(), f"{folder} is no folder; data.name=images:DIR needs one of images")
    present = [name for name in ("train", "test") if (folder / name).is_dir()]
    require(present != ["test"], f"{folder} holds a folder test, but no folder train")
    with _readable(folder):
        splits = [_SplitFolder.scan(folder / name) for name in present or [""]]
    class_names = splits[0].class_names
    for split in splits[1:]:
        unknown = sorted(set(split.class_names) - set(class_names))
        require(
            not unknown and bool(split.class_names) == bool(class_names),
            f"the class folders of {split.folder} must be among those of {splits[0].folder}, "
            + (f"but {unknown[0]!r} is not" if unknown else "but one of the two has none"),
        )
    digest = hashlib.sha256()
    files, labels = [], []
    for name, split in zip(present or [""], splits, strict=True):
        prefix = f"{name}/" if name else ""
        for file, status in split.files:
            files.append(prefix + file)
            state = f"{prefix}{file}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(state.encode(errors="surrogateescape"))
            if class_names:
                labels.append(class_names.index(_class_folder(file)))
    return Listing(
        tuple(files),
        np.array(labels, np.int64) if class_names else None,
        class_names,
        train_count=len(splits[0].files),
        has_test=len(splits) > 1,
        digest=digest.hexdigest(),
    )


@dataclasses.dataclass(frozen=True)
class _SplitFolder:
    """Holds the image files of one split."""

    folder: Path
    files: list[tuple[str, os.stat_result]]  # relative to the folder, sorted
    class_names: tuple[str, ...]

    @classmethod
    def scan(cls, folder: Path) -> "_SplitFolder":
        files = [(name, status) for name, status in _walk(folder) if is_image(name)]
        require(
            len(files) > 0,
            f"{folder} holds no images: no file that ends in {', '.join(SUFFIXES)}",
        )
        without_class = [name for name, _ in files if "/" not in name]
        folders = {_class_folder(name) for name, _ in files}
        class_names = tuple(sorted(folders - set(without_class)))
        subfolders = (path.name for path in sorted(folder.iterdir()) if path.is_dir())
        for name in subfolders:
            require(
                name.startswith(".") or name in class_names,
                f"{folder / name} is a class without images",
            )
        if without_class and class_names:
            raise UserError(
                f"{folder} holds images, such as {without_class[0]}, next to folders, such as "
                f"{class_names[0]}; either all images have a class, or none has"
            )
        return cls(folder, files, class_names)


def _walk(
    folder: Path, prefix: str = "", seen: dict[tuple[int, int], str] | None = None
) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the files in a folder and its subfolders, sorted, with their status.

    Names are text: a Path costs ten times as much, and there may be a million files.
    """
    seen = {} if seen is None else seen
    status = (folder / prefix).stat()
    before = seen.setdefault((status.st_dev, status.st_ino), prefix)
    require(  # a link to a parent folder would never end
        before == prefix,
        f"{folder / prefix} is the same folder as {folder / before}, by a link; each may be there "
        "once",
    )
    with os.scandir(folder / prefix) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(folder, f"{prefix}{entry.name}/", seen)
        else:
            yield prefix + entry.name, entry.stat()


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}") from error


def _class_folder(name: str) -> str:
    return name.partition("/")[0]


def _convert(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in _DEEP_MODES:  # Pillow would clip 16 bits at 255
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    return image.convert(MODES[channels])
