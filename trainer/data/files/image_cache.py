"""Caches the decoded images of a folder in a file for later runs and other processes."""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from trainer.data.files.images import Decoder, Listing, decode, scan
from trainer.errors import UserError, require
from trainer.storage import locks, paths

FOLDER = ".decoded"  # in the folder of images, unless data.cache_dir names another
_DECODER_VERSION = 1  # raise it when a Decoder of the same settings gives other pixels
_ADVICE = "data.cache_dir=DIR keeps the decoded images elsewhere"


@dataclasses.dataclass(frozen=True)
class DecodedImages(Listing):
    """Holds the image files of a folder and their pixels."""

    images: np.ndarray  # uint8 [N, H, W, C], a read-only map of the file


def read(folder: Path, decoder: Decoder, cache_dir: str = "") -> DecodedImages:
    """Returns the images of a folder; the first process to ask for them decodes them into a file.

    The file is in `.decoded` in the folder, or in `cache_dir`. If an image is added, changed or
    removed, all are decoded again.

    Raises:
      UserError: the folder holds no images; an image cannot be read, or differs from the others in
        size or channels; the file cannot be written.
    """
    listing = scan(folder)
    path = _path(folder, listing, decoder, cache_dir)
    images = _open(path, len(listing.files))
    if images is None:
        with locks.locked(path.parent / ".lock", _ADVICE):
            images = _open(path, len(listing.files))
            if images is None:
                _write(path, folder, listing, decoder)
                images = _open(path, len(listing.files))
    assert images is not None, f"{path} is not what was written there"
    return DecodedImages(**vars(listing), images=images)


def _path(folder: Path, listing: Listing, decoder: Decoder, cache_dir: str) -> Path:
    """Returns the path of a decoder's file, SETTINGS-LISTING.npy."""
    source = str(folder.absolute()) if cache_dir else ""
    settings = json.dumps([_DECODER_VERSION, dataclasses.astuple(decoder), source])
    key = hashlib.sha256(settings.encode()).hexdigest()[:12]
    parent = paths.path_of(cache_dir) if cache_dir else folder / FOLDER
    return parent / f"{key}-{listing.digest[:24]}.npy"


def _open(path: Path, count: int) -> np.ndarray | None:
    """Maps the images of a file into memory; returns None unless the file is whole."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(images) if images.ndim == 4 and len(images) == count else None


def _write(path: Path, folder: Path, listing: Listing, decoder: Decoder) -> None:
    """Writes a file whole or not at all, then removes older files of the same settings."""
    print(f"decoding {len(listing.files):,} images of {folder} once, into {path}", flush=True)
    settings = path.name.partition("-")[0]
    tmp = path.with_name(f".{settings}.part")
    try:
        # np.lib.format.open_memmap would end the process by SIGBUS on a full disk.
        with tmp.open("wb") as file:
            for image in _decode_alike(folder, listing.files, decoder):
                if file.tell() == 0:
                    shape = (len(listing.files), *image.shape)
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(image.tobytes())
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
        for other in path.parent.glob(f"{settings}-*.npy"):
            if other != path:
                other.unlink()
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror}); {_ADVICE}") from error
    finally:
        tmp.unlink(missing_ok=True)


def _decode_alike(folder: Path, files: tuple[str, ...], decoder: Decoder) -> Iterator[np.ndarray]:
    """Yields the pixels of the files; raises UserError if a shape differs from the first."""
    images = decode(folder, files, decoder)
    hidden = not sys.stderr.isatty()
    shape: tuple[int, ...] = ()
    with tqdm(desc="decoding", total=len(files), unit=" images", disable=hidden) as progress:
        for name, image in zip(files, images, strict=True):
            shape = shape or image.shape
            require(
                image.shape[:2] == shape[:2],
                f"the images of {folder} differ in size: {files[0]} is {_size(shape)} pixels, "
                f"{name} {_size(image.shape)} (height x width); set data.image_size",
            )
            require(
                image.shape == shape,
                f"the images of {folder} differ: {files[0]} is {_colour(shape)}, "
                f"{name} {_colour(image.shape)}; set data.channels to 1 or 3",
            )
            yield image
            progress.update()


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _colour(shape: tuple[int, ...]) -> str:
    return "grey" if shape[2] == 1 else "in colour"
