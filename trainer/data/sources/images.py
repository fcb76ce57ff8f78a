"""Reads a user's folder of images, decoded once into a file that later runs read."""

import dataclasses
import re
from typing import TYPE_CHECKING

import numpy as np

from trainer.config import Data, key
from trainer.data.dataset import Records, Split
from trainer.data.memory import aligned_copy, usage
from trainer.data.sources import Request, Splits
from trainer.errors import require
from trainer.storage import paths

if TYPE_CHECKING:
    from trainer.data.files.decoder import Decoder

EXAMPLE = "images:DIR"
RESIZES = True
STAYS_IN_FILES = True
PATH_MAY_MOVE = True
SEVERAL_PATHS = False


@dataclasses.dataclass(frozen=True)
class Settings(Data):
    """Declares the keys of a folder of images."""

    fit: str = key(
        "stretch",
        "How images of another aspect ratio become squares of data.image_size: stretch, crop (to "
        "the middle), pad (with data.background).",
        choices=("stretch", "crop", "pad"),
    )
    channels: int = key(
        0, "Convert images to 1 channel (grey) or 3 (colour); 0: as they are.", choices=(0, 1, 3)
    )
    background: str = key(
        "black", 'Colour of transparent pixels and of padding, as "white" or "#ff8000".'
    )
    white: int = key(
        65_535,
        "Level of 16-bit images that becomes 255, the white of 8 bits.",
        at_least=1,
        at_most=65_535,
    )
    max_megapixels: float = key(200.0, "Images with more pixels are unreadable.", above=0)
    class_folders: bool = key(True, "Subfolders are classes; False: all images without classes.")
    skip_unreadable: bool = key(False, "Leave out files that cannot be read as images.")
    cache_dir: str = key(
        "", 'Folder for the cache of decoded images; "": DIR/.decoded.', may_change=True
    )

    def check(self) -> None:
        require(
            ":" in self.name and not self.name.endswith(":"),
            "data.name='images' names no folder; it is written images:DIR",
        )
        require(
            self.fit == "stretch" or self.image_size != 0,
            f"data.fit={self.fit!r} needs data.image_size, the side of the square to fit in",
        )
        require(
            re.fullmatch(r"#[0-9a-fA-F]{6}|[a-z]+", self.background) is not None,
            f"data.background={self.background!r} is not allowed; it takes a name or #rrggbb",
        )


def read(request: Request[Settings]) -> Splits:
    """Reads a folder into memory, or leaves the images in their cache if they do not fit."""
    from trainer.data.files import image_cache, image_folder, images

    settings, folder = request.settings, request.argument
    path, decoder = paths.path_of(folder), decoder_of(settings)
    listing = image_folder.scan(path, class_folders=settings.class_folders)
    found = image_cache.read(
        path,
        listing,
        decoder,
        cache_dir=settings.cache_dir,
        skip_unreadable=settings.skip_unreadable,
    )
    listing = found.listing
    first = images.header(path / listing.files[0])
    notes = listing.notes
    if first and first.is_deep:
        notes += (f"16-bit images become 8 bits; level {settings.white:,} (data.white) is white",)
    fits = found.images.nbytes <= request.allowed_bytes
    require(
        fits or settings.placement in ("auto", "records"),
        f"data.placement={settings.placement!r} is not allowed: "
        f"{usage(folder, found.images.nbytes, request.allowed_bytes)}; "
        "auto leaves the images in their file",
    )
    in_memory = fits and settings.placement != "records"
    file_names = np.array(listing.files, object)

    def split(rows: slice) -> Split:
        pixels: np.ndarray | Records
        if in_memory:
            pixels = aligned_copy(found.images[rows])
        else:
            places = np.arange(len(listing.files), dtype=np.int32)
            pixels = Records(found.images.__getitem__, places[rows])
        labels = None if listing.labels is None else listing.labels[rows].copy()
        return Split(pixels, labels, file_names[rows].copy())

    splits, start = {}, 0
    for name, count in listing.counts.items():
        splits[name] = split(slice(start, start + count))
        start += count
    return Splits(
        splits["train"],
        splits.get("test"),
        splits.get("validation"),
        class_names=listing.class_names,
        notes=notes,
    )


def decoder_of(settings: Settings) -> "Decoder":
    """Returns what decodes the images of a folder, as the training does."""
    from trainer.data.files.decoder import Decoder

    return Decoder(
        settings.image_size,
        settings.channels,
        settings.fit,
        settings.background,
        settings.white,
        settings.max_megapixels,
    )
