"""Caches the decoded images of a folder in a file for later runs and other processes."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from trainer.data.files import cache, numpy_files
from trainer.data.files.decoder import Decoder, Unreadable
from trainer.data.files.image_folder import Listing
from trainer.data.files.images import decode, has_more_frames, header
from trainer.errors import UserError, listed, require
from trainer.storage import atomic

FOLDER = ".decoded"  # in the folder of images, unless data.cache_dir names another
_DECODER_VERSION = 4  # raise it when a cache of the same settings holds something else


@dataclasses.dataclass(frozen=True)
class DecodedImages:
    """Holds the readable image files of a folder and their pixels."""

    listing: Listing
    images: np.ndarray  # uint8 [N, H, W, C], a read-only map of the file


def read(
    folder: Path, listing: Listing, decoder: Decoder, *, cache_dir: str, skip_unreadable: bool
) -> DecodedImages:
    """Returns the images of a folder; the first process to ask for them decodes them into a file.

    The file is in `.decoded` in the folder, or in `cache_dir`. If an image is added, changed or
    removed, all are decoded again.

    Raises:
      UserError: an image cannot be read and may not be skipped, or differs from the others in size
        or channels; the file cannot be written.
    """
    path = cache.path_of(
        folder / FOLDER,
        folder,
        content=listing.digest,
        settings=json.dumps([_DECODER_VERSION, dataclasses.astuple(decoder)]),
        cache_dir=cache_dir,
    ).with_suffix(".npy")
    decoded = cache.open_or_make(
        path, lambda: _Cache.open(path, listing), lambda: _write(path, folder, listing, decoder)
    )
    found, unreadable = decoded.images, decoded.unreadable
    if decoded.multi_frame:
        note = (
            f"only the first frame or page of {len(decoded.multi_frame):,} files is read: "
            f"{listed(decoded.multi_frame)}"
        )
        listing = dataclasses.replace(listing, notes=(*listing.notes, note))
    if not unreadable:
        return DecodedImages(listing, found)
    named = listed((f"{name}: {why}" for name, why in unreadable.items()), "; ")
    require(
        skip_unreadable,
        f"{folder} holds files that cannot be read as images ({len(unreadable):,}): {named}; "
        "data.skip_unreadable=True leaves them out, the others are decoded already",
    )
    kept = listing.without(set(unreadable))
    empty = [split for split, count in kept.counts.items() if count == 0]
    require(not empty, f"{folder} holds no readable image in its {empty[:1]} split")
    note = f"unreadable files left out ({len(unreadable):,}): {named}"
    return DecodedImages(dataclasses.replace(kept, notes=(*kept.notes, note)), found)


@dataclasses.dataclass(frozen=True)
class _Cache:
    """Contains decoded images and the lists of files with problems, as read from the cache."""

    images: np.ndarray
    unreadable: dict[str, str]  # the reason by file
    multi_frame: list[str]  # files with more frames than the first

    @classmethod
    def open(cls, path: Path, listing: Listing) -> "_Cache | None":
        """Maps the images into memory; returns None unless both files are whole."""
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
            lists = json.loads(_lists_of(path).read_text())
        except (OSError, ValueError, EOFError):
            return None
        count = len(listing.files) - len(lists["unreadable"])
        is_whole = images.ndim == 4 and len(images) == count
        return cls(np.asarray(images), **lists) if is_whole else None


def _lists_of(path: Path) -> Path:
    """Returns the JSON file with the lists of `_Cache` for a file of decoded images."""
    return path.with_suffix(".json")


def _write(path: Path, folder: Path, listing: Listing, decoder: Decoder) -> None:
    """Writes a file whole or not at all."""
    print(f"decoding {len(listing.files):,} images of {folder} once, into {path}", flush=True)
    tmp = path.with_name(f".{path.stem}.part")
    unreadable: dict[str, str] = {}
    multi_frame: list[str] = []
    try:
        # np.lib.format.open_memmap would end the process by SIGBUS on a full disk.
        with tmp.open("wb") as file:
            shape: tuple[int, ...] = (0, 0, 0)
            for image in _decode_alike(folder, listing.files, decoder, unreadable, multi_frame):
                if file.tell() == 0:
                    shape = image.shape
                    numpy_files.write_header(file, np.uint8, (len(listing.files), *shape))
                file.write(image.tobytes())
            count = len(listing.files) - len(unreadable)
            require(count > 0, _no_image(folder, unreadable))
            file.seek(0)
            numpy_files.write_header(file, np.uint8, (count, *shape))
            file.flush()
            os.fsync(file.fileno())
        atomic.write_json(
            _lists_of(path), {"unreadable": unreadable, "multi_frame": sorted(multi_frame)}
        )
        tmp.replace(path)
    finally:
        tmp.unlink(missing_ok=True)


def _no_image(folder: Path, unreadable: dict[str, str]) -> str:
    first = next(iter(unreadable.items()), ("", ""))
    return f"no file of {folder} can be read as an image; {first[0]}: {first[1]}"


def _decode_alike(
    folder: Path,
    files: tuple[str, ...],
    decoder: Decoder,
    unreadable: dict[str, str],
    multi_frame: list[str],
) -> Iterator[np.ndarray]:
    """Yields the pixels of the readable files; adds the others to `unreadable`.

    Adds files with more frames than the first to `multi_frame`.

    Raises:
      UserError: two images differ in shape.
    """

    def decode_first_frame(path: Path) -> np.ndarray | Unreadable:
        image = decoder(path)
        if isinstance(image, np.ndarray) and has_more_frames(path):
            multi_frame.append(str(path.relative_to(folder)))
        return image

    images = decode(folder, files, decode_first_frame)
    hidden = not sys.stderr.isatty()
    shape: tuple[int, ...] = ()
    with tqdm(desc="decoding", total=len(files), unit=" images", disable=hidden) as progress:
        for name, image in zip(files, images, strict=True):
            progress.update()
            if isinstance(image, Unreadable):
                unreadable[name] = image.reason
                continue
            shape = shape or image.shape
            if image.shape != shape:
                raise UserError(_differences(folder, files, decoder))
            yield image


def _differences(folder: Path, files: tuple[str, ...], decoder: Decoder) -> str:
    """Describes how images differ by their headers, with every key that would make them alike."""
    by_name = {name: header(folder / name) for name in files}
    headers = [found for found in by_name.values() if found]
    broken = [name for name, found in by_name.items() if not found]
    sizes = sorted({(found.height, found.width) for found in headers})
    colours = [found.channels > 1 for found in headers]
    problems, keys = [], []
    if len(sizes) > 1 and not decoder.image_size:
        (low, high) = (f"{size[0]}x{size[1]}" for size in (sizes[0], sizes[-1]))
        problems.append(f"{len(sizes):,} sizes from {low} to {high} pixels (height x width)")
        keys.append("data.image_size")
    if len(set(colours)) > 1 and not decoder.channels:
        problems.append(f"{sum(colours):,} in colour and {len(colours) - sum(colours):,} grey")
        keys.append("data.channels=1 or 3")
    line = f"the images of {folder} differ: {'; '.join(problems)}; set {' and '.join(keys)}"
    if broken:
        line += (
            f"; {len(broken):,} files cannot be read ({listed(broken)}), which "
            "data.skip_unreadable=True leaves out"
        )
    return line
