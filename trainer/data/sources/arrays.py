"""Reads a user's vectors or images from an .npy or .npz file."""

import dataclasses

from trainer.config import Data, key
from trainer.data.dataset import Split
from trainer.data.sources import Request, Splits
from trainer.errors import require
from trainer.storage import paths

EXAMPLE = "arrays:FILE"
RESIZES = False
STAYS_IN_FILES = True
PATH_MAY_MOVE = True
SEVERAL_PATHS = False


@dataclasses.dataclass(frozen=True)
class Settings(Data):
    """Declares the keys of arrays."""

    layout: str = key(
        "auto",
        "What rows of three or four dimensions are: images with their channels last or first, or "
        "series of windows [T, C], which become vectors; auto: by shape and range.",
        choices=("auto", "channels_last", "channels_first", "series"),
    )

    def check(self) -> None:
        require(
            ":" in self.name and not self.name.endswith(":"),
            "data.name='arrays' names no file; it is written arrays:FILE.npz or arrays:FILE.npy",
        )


def read(request: Request[Settings]) -> Splits:
    """Reads the array of an .npy file, or the arrays of an .npz file by their usual names."""
    from trainer.data.files import training_arrays

    path = paths.path_of(request.argument)
    settings, size = request.settings, path.stat().st_size if path.exists() else 0
    stays = settings.placement == "records"
    stays |= settings.placement == "auto" and size > request.allowed_bytes
    if stays and path.suffix.lower() == ".npy":
        rows, notes = training_arrays.open_records(path, settings.layout)
        return Splits(Split(rows, None), notes=notes)
    require(settings.placement != "records", f"{path} does not stay in its file; an .npy file does")
    arrays = training_arrays.read(path, request.allowed_bytes, settings.layout)
    splits = {
        name: Split(examples, arrays.labels.get(name)) for name, examples in arrays.examples.items()
    }
    return Splits(
        splits["train"],
        splits.get("test"),
        splits.get("validation"),
        class_names=arrays.class_names,
        notes=arrays.notes,
    )
