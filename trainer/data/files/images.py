"""Reads the headers of image files, and decodes many files by several threads."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.data.files.decoder import DEEP_MODES, FORMATS, GREY_MODES, Unreadable
from trainer.limits import usable_cores

_ORIENTATION = 0x0112  # of EXIF; above 4, height and width are exchanged
_FRAME_SUFFIXES = (".gif", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif")
_MAX_AHEAD = 512  # images decoded before the reader asks for them
_MAX_TASK = 16  # images of a task, which costs a tenth of the time of a small JPEG
_MAX_AHEAD_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Header:
    """Describes an image file without its pixels."""

    height: int
    width: int
    channels: int  # 1 or 3
    is_deep: bool  # of 16 bits


def header(path: Path) -> Header | None:
    """Reads the beginning of an image file; returns None if it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            size = image.size if image.getexif().get(_ORIENTATION, 1) > 4 else image.size[::-1]
            channels = 1 if image.mode in GREY_MODES else 3
            return Header(*size, channels, image.mode in DEEP_MODES)
    except Exception:  # as in Decoder
        return None


def has_more_frames(path: Path) -> bool:
    """Returns whether a file holds frames or pages after the first, which `Decoder` reads."""
    if not path.name.lower().endswith(_FRAME_SUFFIXES):
        return False
    try:
        with Image.open(path, formats=FORMATS) as image:
            return getattr(image, "is_animated", False)
    except Exception:  # as in Decoder
        return False


def decode(
    folder: Path, files: Sequence[str], decoder: Callable[[Path], np.ndarray | Unreadable]
) -> Iterator[np.ndarray | Unreadable]:
    """Yields the pixels of the files in their order, decoded by a thread for each core."""
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        start, ahead = 0, threads
        while start < len(files):
            some = files[start : start + ahead]
            start += len(some)
            size = min(_MAX_TASK, -(-len(some) // threads))
            tasks = [some[first : first + size] for first in range(0, len(some), size)]
            for found in chain.from_iterable(
                pool.map(lambda names: [decoder(folder / name) for name in names], tasks)
            ):
                if isinstance(found, np.ndarray):
                    ahead = max(threads, min(_MAX_AHEAD, _MAX_AHEAD_BYTES // found.nbytes))
                yield found
