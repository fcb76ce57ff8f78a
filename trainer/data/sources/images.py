"""Reads a user's folder of images, decoded once into a file that later runs read."""

import dataclasses

import numpy as np

from trainer.config import Data, key
from trainer.data.dataset import Records, Split
from trainer.data.memory import aligned_copy, usage
from trainer.data.sources import Request, Splits
from trainer.errors import require
from trainer.storage import paths

EXAMPLE = "images:DIR"
RESIZES = True
STAYS_IN_FILES = True
PATH_MAY_MOVE = True


@dataclasses.dataclass(frozen=True)
class Settings(Data):
    """Declares the keys of a folder of images."""

    fit: str = key(
        "stretch",
        "How images of another aspect ratio become squares of data.image_size: stretch, crop (to "
        "the middle), pad (with black).",
        choices=("stretch", "crop", "pad"),
    )
    channels: int = key(
        0, "Convert images to 1 channel (grey) or 3 (colour); 0: as they are.", choices=(0, 1, 3)
    )
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


def read(request: Request[Settings]) -> Splits:
    """Reads a folder into memory, or leaves the images in their cache if they do not fit."""
    from trainer.data.files import image_cache
    from trainer.data.files.images import Decoder

    settings, folder = request.settings, request.argument
    decoder = Decoder(settings.image_size, settings.channels, settings.fit)
    found = image_cache.read(paths.path_of(folder), decoder, settings.cache_dir)
    fits = found.images.nbytes <= request.allowed_bytes
    require(
        fits or settings.placement in ("auto", "records"),
        f"data.placement={settings.placement!r} is not allowed: "
        f"{usage(folder, found.images.nbytes, request.allowed_bytes)}; "
        "auto leaves the images in their file",
    )
    in_memory = fits and settings.placement != "records"
    file_names = np.array(found.files, object)

    def split(rows: slice) -> Split:
        images: np.ndarray | Records
        if in_memory:
            images = aligned_copy(found.images[rows])
        else:
            numbers = np.arange(len(found.files), dtype=np.int32)
            images = Records(found.images.__getitem__, numbers[rows])
        labels = None if found.labels is None else found.labels[rows].copy()
        return Split(images, labels, file_names[rows].copy())

    test = split(slice(found.train_count, None)) if found.has_test else None
    return Splits(split(slice(found.train_count)), test, class_names=found.class_names)
