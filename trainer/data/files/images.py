"""A user's folder of images, decoded once; whatever is wrong with it is told in one line."""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from trainer.errors import UserError, in_one_line, require, require_choice
from trainer.storage import locks, paths

SUFFIXES = paths.IMAGE_SUFFIXES
FITS = ("stretch", "crop", "pad")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of images, as Pillow calls them, by their channels
CACHE = ".decoded"  # in the folder itself, unless another is told
_FORMATS = ("PNG", "JPEG", "BMP", "GIF")
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes of one channel
_DEEP = ("I", "I;16", "I;16B", "I;16L")  # those of them with 16 bits
_MOST_WAITING = 512  # images, decoded and still to be written
_MOST_BYTES_WAITING = 64 * 2**20  # of them
_DECODER = 1  # told apart in the names of what is kept: one that decodes otherwise counts on


@dataclasses.dataclass(frozen=True)
class Listing:
    """The image files of a folder: those to train on, then those to test, each part in order."""

    files: tuple[str, ...]  # below the folder
    labels: np.ndarray | None  # int64 [N], the numbers of the classes
    class_names: tuple[str, ...]
    train_count: int
    has_test: bool
    others: int  # files of other kinds, which are left alone
    digest: str  # of the names, sizes and times of change


@dataclasses.dataclass(frozen=True)
class Decoded(Listing):
    """The same with the images."""

    images: np.ndarray  # uint8 [N, H, W, C], in the file where they are kept, read-only


@dataclasses.dataclass(frozen=True)
class Decoder:
    """How an image file becomes pixels.

    `image_size` is the side of the square that an image is made, or its height and width; 0: it
    stays as large as it is. `channels` is 1 for grey, 3 for colour, 4 for colour with transparency,
    0 for grey or colour as the image is. `fit` tells how an image of another shape gets this one:
    "stretch"; "crop", to its middle; "pad", with black.
    """

    image_size: int | tuple[int, int] = 0
    channels: int = 0
    fit: str = "stretch"

    def __post_init__(self) -> None:
        require_choice("data.fit", self.fit, FITS)
        require(
            self.image_size != 0 or self.fit == "stretch",
            f"data.fit={self.fit!r} needs data.image_size, the side of the square to fit in",
        )

    def __call__(self, path: Path) -> np.ndarray:
        """The pixels of a file, uint8 [H, W, C], upright as its EXIF says.

        Raises:
          UserError: it is no image that can be read, or one of so many pixels that it is a trap.
        """
        try:
            with Image.open(path, formats=_FORMATS) as image:
                channels = self.channels or (1 if image.mode in _GREY else 3)
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(self._fitted(_in_channels(upright, channels)))
        except Exception as error:  # it fails in as many ways as there are formats
            why = getattr(error, "strerror", None) or in_one_line(error)
            raise UserError(f"{path} cannot be read as an image ({why})") from error
        return pixels.reshape(*pixels.shape[:2], channels)

    def _fitted(self, image: Image.Image) -> Image.Image:
        if self.image_size == 0:
            return image
        side = self.image_size
        size = (side, side) if isinstance(side, int) else side[::-1]
        if image.size == size:
            return image
        resample = Image.Resampling.BILINEAR  # antialiased, as TFDS's images are
        if self.fit == "crop":
            return ImageOps.fit(image, size, resample)
        if self.fit == "pad":
            return ImageOps.pad(image, size, resample, color=0)
        return image.resize(size, resample)


def names(folder: Path) -> list[str]:
    """The image files in a folder and those below it, in order; hidden ones are left out.

    Raises:
      UserError: it cannot be read.
    """
    with _readable(folder):
        return [name for name, _ in _walk(folder) if is_image(name)]


def scan(folder: Path) -> Listing:
    """Lists the images of `folder/train` and, if it is there, `folder/test`.

    Where there is neither, the folder itself is the training part. The folders in a part are
    classes, whose sorted names have the labels 0, 1, ...; hidden files and folders are left out.

    Raises:
      UserError: it is no folder, cannot be read, holds no image, or images beside classes.
    """
    require(folder.is_dir(), f"{folder} is no folder; data.name=images:DIR needs one of images")
    present = [name for name in ("train", "test") if (folder / name).is_dir()]
    require(present != ["test"], f"{folder} holds a folder test, but no folder train")
    with _readable(folder):
        parts = [_Part.of(folder / name) for name in present] or [_Part.of(folder)]
    class_names = parts[0].class_names
    for part in parts[1:]:
        unknown = sorted(set(part.class_names) - set(class_names))
        require(
            not unknown and bool(part.class_names) == bool(class_names),
            f"the class folders of {part.folder} must be among those of {parts[0].folder}, "
            + (f"but {unknown[0]!r} is not" if unknown else "but one of the two has none"),
        )
    digest = hashlib.sha256()
    files, labels = [], []
    for part in parts:
        below = "" if part.folder == folder else f"{part.folder.name}/"
        for name, status in part.files:
            files.append(below + name)
            told = f"{below}{name}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(told.encode(errors="surrogateescape"))
            if class_names:
                labels.append(class_names.index(_top(name)))
    return Listing(
        tuple(files),
        np.array(labels, np.int64) if class_names else None,
        class_names,
        train_count=len(parts[0].files),
        has_test=len(parts) > 1,
        others=sum(part.others for part in parts),
        digest=digest.hexdigest(),
    )


def read(folder: Path, decoder: Decoder, cache_dir: str = "") -> Decoded:
    """The images of a folder, each decoded when it is first asked for, once for all processes.

    They are kept in a file of the folder `.decoded` in it, or of `cache_dir`; when an image is
    added, changed or taken away, all are decoded anew.

    Raises:
      UserError: as `scan`; an image cannot be read, or is not like the others; there is no place to
        keep them.
    """
    listing = scan(folder)
    path = _kept_at(folder, listing, decoder, cache_dir)
    images = _kept(path, len(listing.files))
    if images is None:
        advice = "data.cache_dir=DIR keeps the decoded images elsewhere"
        with locks.locked(path.parent / ".lock", advice):
            images = _kept(path, len(listing.files))
            if images is None:
                _decode(folder, listing, decoder, path, advice)
                images = _kept(path, len(listing.files))
    assert images is not None, f"{path} is not what was written there"
    return Decoded(**vars(listing), images=images)


def decoded(folder: Path, files: Sequence[str], decoder: Decoder) -> Iterator[np.ndarray]:
    """The pixels of the files, one after the other, decoded by as many threads as there are cores.

    Raises:
      UserError: as a Decoder.
    """
    threads = os.cpu_count() or 1
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        first = decoder(folder / files[0])
        at_a_time = max(threads, min(_MOST_WAITING, _MOST_BYTES_WAITING // first.nbytes))
        for start in range(0, len(files), at_a_time):
            some = files[start : start + at_a_time]
            yield from pool.map(lambda name: decoder(folder / name), some)


@dataclasses.dataclass(frozen=True)
class _Part:
    folder: Path
    files: list[tuple[str, os.stat_result]]  # below it, in the order of their names
    class_names: tuple[str, ...]
    others: int

    @classmethod
    def of(cls, folder: Path) -> "_Part":
        everything = list(_walk(folder))
        files = [(name, status) for name, status in everything if is_image(name)]
        require(
            len(files) > 0,
            f"{folder} holds no images: no file that ends in {', '.join(SUFFIXES)}",
        )
        loose = [name for name, _ in files if "/" not in name]
        class_names = tuple(sorted({_top(name) for name, _ in files} - set(loose)))
        empty = [path.name for path in _folders(folder) if path.name not in class_names]
        require(not empty, f"{folder / empty[0] if empty else ''} is a class without images")
        require(
            not (loose and class_names),
            f"{folder} holds images, such as {loose[0] if loose else ''}, beside folders, "
            f"such as {class_names[0] if class_names else ''}; either all have a class, or none",
        )
        return cls(folder, files, class_names, len(everything) - len(files))


def _walk(
    folder: Path, below: str = "", known: dict[tuple[int, int], str] | None = None
) -> Iterator[tuple[str, os.stat_result]]:
    """The files in a folder and those below, sorted, with what the system says of them.

    Their names are text: a path costs ten times as much, and there may be a million.
    """
    known = {} if known is None else known
    status = (folder / below).stat()
    before = known.setdefault((status.st_dev, status.st_ino), below)
    require(  # two links upwards in one folder would be walked for ever
        before == below,
        f"{folder / below} is the same folder as {folder / before}, by a link; each may be there "
        "once",
    )
    with os.scandir(folder / below) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(folder, f"{below}{entry.name}/", known)
        else:
            yield below + entry.name, entry.stat()


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}") from error


def _top(name: str) -> str:
    return name.partition("/")[0]


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(SUFFIXES)


def _kept_at(folder: Path, listing: Listing, decoder: Decoder, cache_dir: str) -> Path:
    """Where the images are kept: one file for each way to decode them, of the newest listing."""
    where = str(folder.absolute()) if cache_dir else ""
    settings = json.dumps([_DECODER, dataclasses.astuple(decoder), where])
    key = hashlib.sha256(settings.encode()).hexdigest()[:12]
    parent = paths.path_of(cache_dir) if cache_dir else folder / CACHE
    return parent / f"{key}-{listing.digest[:24]}.npy"


def _kept(path: Path, count: int) -> np.ndarray | None:
    """The images of a file, if it is whole."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(images) if images.ndim == 4 and len(images) == count else None


def _decode(folder: Path, listing: Listing, decoder: Decoder, path: Path, advice: str) -> None:
    """Writes the file whole, or not at all; it takes the place of what was kept before."""
    print(f"decoding {len(listing.files):,} images of {folder} once, into {path}", flush=True)
    aside = path.with_name(f".{path.name.partition('-')[0]}.part")
    try:
        with aside.open("wb") as file:
            for image in _alike(folder, listing.files, decoder):
                if file.tell() == 0:
                    header = {
                        "descr": "|u1",
                        "fortran_order": False,
                        "shape": (len(listing.files), *image.shape),
                    }
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(image.tobytes())
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        for other in path.parent.glob(f"{path.name.partition('-')[0]}-*.npy"):
            if other != path:
                other.unlink()
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror}); {advice}") from error
    finally:
        aside.unlink(missing_ok=True)


def _alike(folder: Path, files: Sequence[str], decoder: Decoder) -> Iterator[np.ndarray]:
    """The pixels of the files; raises UserError where one has another shape than the first."""
    quiet = not sys.stderr.isatty()
    images = decoded(folder, files, decoder)
    shape: tuple[int, ...] = ()
    with tqdm(desc="decoding", total=len(files), unit=" images", disable=quiet) as progress:
        for name, image in zip(files, images, strict=True):
            shape = shape or image.shape
            _require_alike(folder, files[0], shape, name, image.shape)
            yield image
            progress.update()


def _require_alike(
    folder: Path, first: str, shape: tuple[int, ...], name: str, its: tuple[int, ...]
) -> None:
    require(
        its[:2] == shape[:2],
        f"the images of {folder} differ in size: {first} is {_times(shape)} pixels, {name} "
        f"{_times(its)} (height x width); set data.image_size",
    )
    kind = {1: "grey", 3: "in colour"}
    require(
        its == shape,
        f"the images of {folder} differ: {first} is {kind[shape[2]]}, {name} {kind[its[2]]}; "
        "set data.channels to 1 or 3",
    )


def _times(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _in_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in _DEEP:  # Pillow would cut them at 255
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    return image.convert(MODES[channels])
